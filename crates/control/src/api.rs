//! The HTTP face: paths to operations, problems to status codes. No decisions.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use registry::{
    AddGroup, CreateVolume, DeleteVolume, InstanceHeartbeat, LimitVolume, NodeRegistration,
    OpenVolume, Problem, ProblemCode, Rescue, SetDuty, WriterReady,
};
use serde::Serialize;
use types::VolumeId;

use crate::decide::problem;
use crate::service::Service;

type Shared = State<Arc<Service>>;
type Body<T> = Result<Json<T>, JsonRejection>;

/// Every path of the API.
pub(crate) fn routes(service: Arc<Service>) -> Router {
    Router::new()
        .route("/nodes", post(register))
        .route("/nodes/{name}/duty", post(duty))
        .route("/topology", get(topology))
        .route("/volumes", get(volumes).post(create_volume))
        .route("/volumes/{id}", get(volume))
        .route("/volumes/{id}/open", post(open))
        .route("/volumes/{id}/ready", post(ready))
        .route("/volumes/{id}/timeline", post(timeline))
        .route("/volumes/{id}/groups", post(add_group))
        .route("/volumes/{id}/use", get(volume_use))
        .route("/volumes/{id}/limit", post(limit))
        .route("/volumes/{id}/delete", post(delete))
        .route("/volumes/{id}/rescue", post(rescue))
        .route("/instances", post(heartbeat))
        .route("/status", get(status))
        .fallback(unknown)
        .with_state(service)
}

async fn register(State(service): Shared, body: Body<NodeRegistration>) -> Response {
    with_body(service, body, |service, node| service.register(&node)).await
}

async fn duty(State(service): Shared, Path(name): Path<String>, body: Body<SetDuty>) -> Response {
    with_body(service, body, move |service, wish| service.set_duty(&name, wish.duty)).await
}

async fn rescue(State(service): Shared, Path(id): Path<String>, body: Body<Rescue>) -> Response {
    with_body(service, body, move |service, wish| service.rescue(volume_id(&id)?, &wish)).await
}

async fn topology(State(service): Shared) -> Response {
    perform(service, |service| Ok(service.topology())).await
}

async fn volumes(State(service): Shared) -> Response {
    perform(service, |service| Ok(service.volumes())).await
}

async fn create_volume(State(service): Shared, body: Body<CreateVolume>) -> Response {
    with_body(service, body, |service, wish| service.create_volume(&wish)).await
}

async fn volume(State(service): Shared, Path(id): Path<String>) -> Response {
    perform(service, move |service| service.volume(volume_id(&id)?)).await
}

async fn open(State(service): Shared, Path(id): Path<String>, body: Body<OpenVolume>) -> Response {
    with_body(service, body, move |service, wish| service.open(volume_id(&id)?, &wish)).await
}

async fn ready(
    State(service): Shared,
    Path(id): Path<String>,
    body: Body<WriterReady>,
) -> Response {
    with_body(service, body, move |service, report| service.ready(volume_id(&id)?, &report, true))
        .await
}

async fn timeline(
    State(service): Shared,
    Path(id): Path<String>,
    body: Body<WriterReady>,
) -> Response {
    with_body(service, body, move |service, report| service.ready(volume_id(&id)?, &report, false))
        .await
}

async fn add_group(
    State(service): Shared,
    Path(id): Path<String>,
    body: Body<AddGroup>,
) -> Response {
    with_body(service, body, move |service, wish| service.add_group(volume_id(&id)?, &wish)).await
}

async fn volume_use(State(service): Shared, Path(id): Path<String>) -> Response {
    perform(service, move |service| service.volume_use(volume_id(&id)?)).await
}

async fn limit(
    State(service): Shared,
    Path(id): Path<String>,
    body: Body<LimitVolume>,
) -> Response {
    with_body(service, body, move |service, wish| service.limit(volume_id(&id)?, &wish)).await
}

async fn delete(
    State(service): Shared,
    Path(id): Path<String>,
    body: Body<DeleteVolume>,
) -> Response {
    with_body(service, body, move |service, wish| service.delete(volume_id(&id)?, &wish)).await
}

async fn heartbeat(State(service): Shared, body: Body<InstanceHeartbeat>) -> Response {
    with_body(service, body, |service, beat| service.heartbeat(beat)).await
}

async fn status(State(service): Shared) -> Response {
    perform(service, |service| Ok(service.status())).await
}

async fn unknown() -> Response {
    refuse(problem(ProblemCode::NotFound, "the control plane has no such path"))
}

fn volume_id(text: &str) -> Result<VolumeId, Problem> {
    text.parse().map_err(|error: types::NameError| problem(ProblemCode::Invalid, error.to_string()))
}

async fn with_body<T, A, F>(service: Arc<Service>, body: Body<T>, operation: F) -> Response
where
    T: Send + 'static,
    A: Serialize + Send + 'static,
    F: FnOnce(&Service, T) -> Result<A, Problem> + Send + 'static,
{
    match body {
        Ok(Json(body)) => perform(service, move |service| operation(service, body)).await,
        Err(rejection) => {
            service.refused();
            refuse(problem(ProblemCode::Invalid, rejection.body_text()))
        }
    }
}

/// Runs an operation where it may block, and writes its outcome.
async fn perform<A, F>(service: Arc<Service>, operation: F) -> Response
where
    A: Serialize + Send + 'static,
    F: FnOnce(&Service) -> Result<A, Problem> + Send + 'static,
{
    let worker = Arc::clone(&service);
    match tokio::task::spawn_blocking(move || operation(&worker)).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(problem)) => {
            service.refused();
            refuse(problem)
        }
        Err(error) => {
            refuse(problem(ProblemCode::Internal, format!("the request failed: {error}")))
        }
    }
}

fn refuse(problem: Problem) -> Response {
    let status = match problem.code {
        ProblemCode::Invalid => StatusCode::BAD_REQUEST,
        ProblemCode::NotFound => StatusCode::NOT_FOUND,
        ProblemCode::Deleted => StatusCode::GONE,
        ProblemCode::Mismatch
        | ProblemCode::OlderDisk
        | ProblemCode::Changed
        | ProblemCode::Fenced
        | ProblemCode::InUse => StatusCode::CONFLICT,
        ProblemCode::TooFewNodes => StatusCode::SERVICE_UNAVAILABLE,
        ProblemCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(problem)).into_response()
}
