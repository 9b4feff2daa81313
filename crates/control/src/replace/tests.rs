//! Decisions as tables: nodes a1 to a3, b1 to b3, c1, c2; one group on two of each zone.

use types::{ClusterId, Incarnation};

use super::*;
use crate::decide;

const VOLUME: VolumeId = VolumeId(7);

fn name(text: &str) -> NodeId {
    text.parse().expect("valid")
}

fn node(text: &str) -> NodeRecord {
    NodeRecord {
        name: name(text),
        az: text[..1].parse().expect("valid"),
        address: format!("{text}:1"),
        http: None,
        incarnation: Incarnation(1),
        pid: 1,
        log_life: 0,
        duty: Duty::Serving,
    }
}

fn group(id: u32) -> GroupRecord {
    let members =
        ["a1", "a2", "b1", "b2", "c1", "c2"].map(|text| MemberRecord::new(&node(text), 1));
    let (joining, former) = (Vec::new(), Vec::new());
    GroupRecord { id, membership_epoch: 1, members: members.into(), joining, former }
}

fn state() -> State {
    let nodes =
        ["a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2"].map(|text| (name(text), node(text)));
    let volume = VolumeRecord {
        id: VOLUME,
        name: "main".to_owned(),
        epoch: 5,
        timeline: 1,
        geometry_epoch: 1,
        group_bytes: 8 << 20,
        limit_bytes: None,
        initialized: true,
        writer: None,
        groups: vec![group(0)],
        pending: None,
    };
    let volumes = [(VOLUME, volume)].into();
    State { cluster: ClusterId(1), nodes: nodes.into(), volumes, ..State::default() }
}

/// All alive but these.
fn but(health: Health, nodes: &'static [&'static str]) -> impl Fn(NodeId) -> Health {
    move |node| if nodes.contains(&node.as_str()) { health } else { Health::Alive }
}

fn take(state: &mut State, changes: impl IntoIterator<Item = Change>) -> usize {
    changes.into_iter().map(|change| state.apply(change)).count()
}

/// What is planned where writers find nothing wrong.
fn plan(state: &State, health: &dyn Fn(NodeId) -> Health) -> Vec<Change> {
    super::plan(state, &Nodes { health, found: &|_, _| Found::Well })
}

/// The group after what is planned where nodes are heard, and the writer finds these so.
fn found(state: &mut State, found: &'static [(&'static str, Found)]) -> String {
    let found = |_: VolumeId, node: NodeId| {
        let is = |(name, _): &&(&str, Found)| *name == node.as_str();
        found.iter().find(is).map_or(Found::Well, |(_, found)| *found)
    };
    let changes = super::plan(state, &Nodes { health: &|_| Health::Alive, found: &found });
    take(state, changes);
    shown(state)
}

fn planned(state: &mut State, health: &dyn Fn(NodeId) -> Health) -> String {
    let changes = plan(state, health);
    take(state, changes);
    shown(state)
}

/// The group in a line: members, and what joins where.
fn shown(state: &State) -> String {
    let group = &state.volumes[&VOLUME].groups[0];
    let place = |(place, member): (usize, &MemberRecord)| {
        let joins = group.joining.iter().find(|joining| joining.place == place);
        let joins = joins.map_or(String::new(), |joining| format!("|{}", joining.member.node));
        format!("{}{joins}", member.node)
    };
    let places: Vec<String> = group.members.iter().enumerate().map(place).collect();
    let former: Vec<&str> = group.former.iter().map(|former| former.node.as_str()).collect();
    format!("{} {}: {}", group.membership_epoch, places.join(" "), former.join(" "))
}

fn filled(node: &str, membership_epoch: u64) -> Vec<Filled> {
    vec![Filled { group: 0, membership_epoch, node: name(node) }]
}

fn wish(epoch: u64, membership_epoch: u64, survivors: &[&str]) -> Rescue {
    let survivors = survivors.iter().map(|node| (*node).to_owned()).collect();
    Rescue { epoch, groups: vec![CrippledGroup { group: 0, membership_epoch, survivors }] }
}

#[test]
fn a_lost_nodes_place_is_handed_over_within_its_zone_once() {
    let mut state = state();
    let health = but(Health::Lost, &["a1"]);
    assert_eq!(planned(&mut state, &health), "2 a1|a3 a2 b1 b2 c1 c2: ");
    assert_eq!(plan(&state, &health), []);
}

#[test]
fn a_silent_node_keeps_its_place_and_so_does_one_whose_zone_has_no_other() {
    let state = state();
    assert_eq!(plan(&state, &but(Health::Silent, &["a1"])), []);
    assert_eq!(plan(&state, &but(Health::Lost, &["c1"])), []);
    assert_eq!(plan(&state, &but(Health::Lost, &["a1", "a3"])), []);
}

#[test]
fn two_lost_nodes_of_a_zone_with_one_spare_get_one_replacement() {
    let mut state = state();
    let health = but(Health::Lost, &["b1", "b2"]);
    assert_eq!(planned(&mut state, &health), "2 a1 a2 b1|b3 b2 c1 c2: ");
}

#[test]
fn a_node_that_is_back_keeps_its_place_and_the_joining_one_forgets_its_copy() {
    let mut state = state();
    planned(&mut state, &but(Health::Lost, &["a1"]));
    assert_eq!(planned(&mut state, &but(Health::Alive, &[])), "3 a1 a2 b1 b2 c1 c2: a3");
    // Until it has, it is not chosen again: its old copy could be taken for a new one.
    assert_eq!(plan(&state, &but(Health::Lost, &["a1"])), []);
    let [(volume, group, former)] = &forgets(&state)[..] else { panic!("one order") };
    let change = forgotten(&state, *volume, *group, former);
    take(&mut state, change);
    assert_eq!(planned(&mut state, &but(Health::Lost, &["a1"])), "4 a1|a3 a2 b1 b2 c1 c2: ");
}

#[test]
fn a_zones_only_spare_goes_to_the_place_that_is_lost_before_the_one_that_is_drained() {
    let mut state = state();
    let draining = set_duty(&state, name("a1"), Duty::Draining, &|_| Health::Alive);
    take(&mut state, draining.expect("a3 can take them"));
    let alive = |_: NodeId| Health::Alive;
    assert_eq!(planned(&mut state, &alive), "2 a1|a3 a2 b1 b2 c1 c2: ");
    let lost = but(Health::Lost, &["a2"]);
    assert_eq!(planned(&mut state, &lost), "3 a1 a2 b1 b2 c1 c2: a3");
    assert_eq!(planned(&mut state, &lost), "3 a1 a2 b1 b2 c1 c2: a3", "it has yet to forget");
    let (volume, _, forgets) = forgets(&state).swap_remove(0);
    let done = forgotten(&state, volume, 0, &forgets);
    take(&mut state, done);
    assert_eq!(planned(&mut state, &lost), "4 a1 a2|a3 b1 b2 c1 c2: ");
    let both = but(Health::Lost, &["a1", "a2"]);
    assert_eq!(planned(&mut state, &both), "4 a1 a2|a3 b1 b2 c1 c2: ", "first come");
}

#[test]
fn a_joining_node_that_is_lost_is_given_up() {
    let mut state = state();
    planned(&mut state, &but(Health::Lost, &["a1"]));
    assert_eq!(planned(&mut state, &but(Health::Lost, &["a1", "a3"])), "3 a1 a2 b1 b2 c1 c2: a3");
}

#[test]
fn a_whole_node_gets_the_place_by_the_word_of_the_current_writer_on_the_current_members() {
    let mut state = state();
    planned(&mut state, &but(Health::Lost, &["a1"]));
    for (epoch, node, membership) in [(4, "a3", 2), (5, "a3", 1), (5, "a3", 3), (5, "b3", 2)] {
        let filled = filled(node, membership);
        let nothing = finish(&state, VOLUME, epoch, &filled);
        assert_eq!(nothing, Ok((None, Vec::new())), "{epoch} {node} {membership}");
    }
    let filled = [filled("b3", 2), filled("a3", 2)].concat();
    let (change, took) = finish(&state, VOLUME, 5, &filled).expect("known");
    assert_eq!(took, [&filled[1]]);
    take(&mut state, change);
    assert_eq!(shown(&state), "3 a3 a2 b1 b2 c1 c2: a1");
    assert_eq!(finish(&state, VOLUME, 5, &filled), Ok((None, Vec::new())), "said twice");
}

#[test]
fn who_joins_copies_and_who_was_there_from_the_beginning_does_not() {
    let mut state = state();
    planned(&mut state, &but(Health::Lost, &["a1"]));
    let fresh = |node: &str| {
        let segments = decide::segments(&state, name(node));
        segments.iter().map(|place| place.fresh).collect::<Vec<_>>()
    };
    assert_eq!((fresh("a3"), fresh("a2"), fresh("b3")), (vec![false], vec![true], vec![]));
}

#[test]
fn a_rescue_gives_the_places_of_lost_members_to_new_nodes() {
    let mut state = state();
    let health = but(Health::Lost, &["a1", "b1", "c1"]);
    let (change, places) =
        rescue(&state, VOLUME, &wish(5, 1, &["a2", "b2", "c2"]), &health).expect("granted");
    assert_eq!(places, 2, "zone c has no other node");
    take(&mut state, change);
    assert_eq!(shown(&state), "5 a3 a2 b3 b2 c1 c2: a1 b1");
}

#[test]
fn a_rescue_gives_a_place_to_the_node_that_joins_there_already() {
    let mut state = state();
    let health = but(Health::Lost, &["a1", "b1", "c1"]);
    planned(&mut state, &health);
    let before = shown(&state);
    assert_eq!(before, "3 a1|a3 a2 b1|b3 b2 c1 c2: ");
    let (change, _) =
        rescue(&state, VOLUME, &wish(5, 3, &["a2", "b2", "c2"]), &health).expect("granted");
    take(&mut state, change);
    assert_eq!(shown(&state), "5 a3 a2 b3 b2 c1 c2: a1 b1");
}

#[test]
fn a_rescue_needs_three_present_survivors_current_epochs_and_members_that_are_lost() {
    let state = state();
    let lost = but(Health::Lost, &["a1", "b1", "c1"]);
    let places = |wish: &Rescue, health: &dyn Fn(NodeId) -> Health| {
        rescue(&state, VOLUME, wish, health).map(|(_, places)| places)
    };
    assert_eq!(places(&wish(5, 1, &["a2", "b2"]), &lost), Ok(0));
    assert_eq!(places(&wish(5, 1, &["a2", "b2", "a3"]), &lost), Ok(0), "a3 holds nothing");
    assert_eq!(places(&wish(5, 1, &["a2", "a2", "b2"]), &lost), Ok(0), "two, one said twice");
    assert_eq!(places(&wish(5, 2, &["a2", "b2", "c2"]), &lost), Ok(0), "other members");
    let silent = but(Health::Silent, &["a1", "b1", "c1"]);
    assert_eq!(places(&wish(5, 1, &["a2", "b2", "c2"]), &silent), Ok(0), "they may come back");
    let fenced = places(&wish(4, 1, &["a2", "b2", "c2"]), &lost).expect_err("an older epoch");
    assert_eq!(fenced.code, ProblemCode::Fenced);
}

#[test]
fn a_drained_nodes_segments_move_though_it_is_alive() {
    let mut state = state();
    let alive = but(Health::Alive, &[]);
    let change = set_duty(&state, name("a2"), Duty::Draining, &alive).expect("a3 can take them");
    take(&mut state, change);
    assert_eq!(planned(&mut state, &alive), "2 a1 a2|a3 b1 b2 c1 c2: ");
    assert_eq!(plan(&state, &alive), [], "it is not given up");
    let refused = set_duty(&state, name("c1"), Duty::Draining, &alive).expect_err("no other");
    assert_eq!(refused.code, ProblemCode::TooFewNodes);
    // Said to be lost as well: the node that joins already is the one that can take them.
    set_duty(&state, name("a2"), Duty::Lost, &alive).expect("a3 takes them").expect("a change");
    let unknown = set_duty(&state, name("d1"), Duty::Draining, &alive).expect_err("no such node");
    assert_eq!(unknown.code, ProblemCode::NotFound);
}

#[test]
fn the_least_loaded_node_of_the_zone_is_chosen_for_each_group() {
    let mut state = state();
    state.nodes.insert(name("a4"), node("a4"));
    let volume = state.volumes.get_mut(&VOLUME).expect("there");
    volume.groups.push(group(1));
    let changes = plan(&state, &but(Health::Lost, &["a1"]));
    take(&mut state, changes);
    let joins = |group: &GroupRecord| group.joining[0].member.node.to_string();
    let joining: Vec<String> = state.volumes[&VOLUME].groups.iter().map(joins).collect();
    assert_eq!(joining, ["a3", "a4"]);
}

const SAME: &str = "1 a1 a2 b1 b2 c1 c2: ";

#[test]
fn a_node_slow_for_too_long_is_replaced_and_given_up_on_when_it_is_quick_again() {
    use Found::{Slow, Suspect, Unknown, Well};
    let mut state = state();
    assert_eq!(found(&mut state, &[("a1", Suspect)]), SAME, "not yet");
    let joint = "2 a1|a3 a2 b1 b2 c1 c2: ";
    assert_eq!(found(&mut state, &[("a1", Slow)]), joint);
    assert_eq!(found(&mut state, &[("a1", Slow)]), joint, "once");
    assert_eq!(found(&mut state, &[("a1", Suspect)]), joint, "not well yet");
    assert_eq!(found(&mut state, &[("a1", Unknown)]), joint, "its writer was not heard yet");
    assert_eq!(found(&mut state, &[("a1", Well)]), "3 a1 a2 b1 b2 c1 c2: a3");
}

#[test]
fn where_several_are_slow_or_suspect_none_is_replaced_and_where_one_joins_no_second_is() {
    use Found::{Slow, Suspect, Unknown};
    for others in [
        &[("a1", Slow), ("b1", Slow)][..],
        &[("a1", Slow), ("b1", Suspect)],
        &[("a1", Slow), ("b3", Suspect)],
        &[("a1", Unknown)],
        &[("c1", Slow)],
    ] {
        assert_eq!(found(&mut state(), others), SAME, "{others:?}");
    }
    let mut state = state();
    planned(&mut state, &but(Health::Lost, &["b1"]));
    let (health, slow) =
        (
            but(Health::Lost, &["b1"]),
            |_: VolumeId, node: NodeId| {
                if node.as_str() == "a1" { Slow } else { Found::Well }
            },
        );
    let nodes = Nodes { health: &health, found: &slow };
    assert_eq!(super::plan(&state, &nodes), [], "b3 joins, and four others are well");
}

#[test]
fn a_slow_node_keeps_its_place_where_less_than_a_write_quorum_of_others_is_well() {
    let slow = |_: VolumeId, node: NodeId| {
        if node.as_str() == "a1" { Found::Slow } else { Found::Well }
    };
    for (gone, expected) in [(&["c1"][..], "2 a1|a3 a2 b1 b2 c1 c2: "), (&["c1", "c2"], SAME)] {
        let mut state = state();
        let health = but(Health::Silent, gone);
        let changes = super::plan(&state, &Nodes { health: &health, found: &slow });
        take(&mut state, changes);
        assert_eq!(shown(&state), expected, "{gone:?}");
    }
}

#[test]
fn a_node_that_is_doubtful_is_given_no_place() {
    let mut state = state();
    let health = |node: NodeId| match node.as_str() {
        "a1" => Health::Lost,
        "a3" => Health::Doubtful,
        _ => Health::Alive,
    };
    assert_eq!(planned(&mut state, &health), SAME);
    assert_eq!(planned(&mut state, &but(Health::Lost, &["a1"])), "2 a1|a3 a2 b1 b2 c1 c2: ");
    let back = |node: NodeId| if node.as_str() == "a1" { Health::Doubtful } else { Health::Alive };
    assert_eq!(planned(&mut state, &back), "3 a1 a2 b1 b2 c1 c2: a3", "it is back all the same");
}
