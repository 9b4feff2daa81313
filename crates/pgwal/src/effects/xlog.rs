//! Effects of records about the server itself: checkpoints, counters, parameters, snapshots.

use super::{CheckpointKind, Effects, RunningXacts};
use crate::checkpoint::CheckPoint;
use crate::cursor::Cursor;
use crate::layout::op::{standby as standby_op, xlog as op};
use crate::record::{Record, Source};

pub(super) fn read(record: &Record<impl Source>, op: u8, effects: &mut Effects) -> Option<()> {
    match op {
        op::CHECKPOINT_SHUTDOWN | op::CHECKPOINT_ONLINE => {
            let checkpoint = CheckPoint::decode(&record.main)?;
            effects.saw_next_xid(checkpoint.next_xid as u32);
            effects.next_multi = Some((checkpoint.next_multi, checkpoint.next_multi_offset));
            effects.checkpoint = Some(if op == op::CHECKPOINT_SHUTDOWN {
                // Replay believes the oid counter of a shutdown checkpoint only.
                effects.next_oid = Some(checkpoint.next_oid);
                CheckpointKind::Shutdown
            } else {
                CheckpointKind::Online
            });
            effects.state = true;
        }
        op::NEXTOID => {
            effects.next_oid = Some(Cursor::new(&record.main).u32()?);
            effects.state = true;
        }
        op::PARAMETER_CHANGE => {
            // Five settings and wal_level as int, two bool.
            Cursor::new(&record.main).skip(6 * 4 + 2)?;
            effects.state = true;
        }
        op::FPW_CHANGE => {
            Cursor::new(&record.main).skip(1)?;
            effects.state = true;
        }
        op::END_OF_RECOVERY => {
            // Time, new timeline, previous timeline.
            Cursor::new(&record.main).skip(8 + 4 + 4)?;
            effects.state = true;
        }
        // NOOP, SWITCH, BACKUP_END, RESTORE_POINT and OVERWRITE_CONTRECORD change nothing; images
        // are explicit.
        _ => {}
    }
    Some(())
}

pub(super) fn standby(record: &Record<impl Source>, op: u8, effects: &mut Effects) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    match op {
        standby_op::LOCK => {
            let count = main.u32()?;
            if count as usize > main.left() / 12 {
                return None;
            }
            for _ in 0..count {
                effects.saw_xid(main.u32()?);
                main.skip(8)?;
            }
        }
        standby_op::RUNNING_XACTS => {
            let (count, subxacts) = (main.u32()?, main.u32()?);
            let overflowed = main.u8()? != 0;
            main.skip(3)?;
            let (next_xid, oldest_running) = (main.u32()?, main.u32()?);
            let latest_completed = main.u32()?;
            main.words(count.checked_add(subxacts)?)?;
            effects.saw_next_xid(next_xid);
            effects.running = Some(RunningXacts {
                next_xid,
                oldest_running,
                latest_completed,
                count,
                overflowed,
            });
        }
        _ => {}
    }
    Some(())
}
