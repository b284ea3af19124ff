//! What can be asked for: each path of the API with what answers it.

use axum::Router;
use axum::routing::{any, get, head, post};
use knarr_engine::Engine;

use crate::{containers, exec, images, networks, system, volumes};

/// All paths, without the version before them.
pub(crate) fn router(engine: Engine) -> Router {
    Router::new()
        .merge(of_containers())
        .merge(of_images())
        .merge(of_others())
        .merge(of_what_is_not_here())
        .fallback(system::no_page)
        .with_state(engine)
}

fn of_containers() -> Router<Engine> {
    let archive = head(containers::stat_path).get(containers::copy_out).put(containers::copy_in);
    Router::new()
        .route("/containers/json", get(containers::list))
        .route("/containers/create", post(containers::create))
        .route("/containers/prune", post(containers::prune))
        .route("/containers/{id}", axum::routing::delete(containers::remove))
        .route("/containers/{id}/{alias}", axum::routing::delete(containers::remove_link))
        .route("/containers/{id}/json", get(containers::inspect))
        .route("/containers/{id}/top", get(containers::top))
        .route("/containers/{id}/logs", get(containers::logs))
        .route("/containers/{id}/changes", get(containers::changes))
        .route("/containers/{id}/export", get(containers::export))
        .route("/containers/{id}/stats", get(containers::stats))
        .route("/containers/{id}/resize", post(containers::resize))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/update", post(containers::update))
        .route("/containers/{id}/rename", post(containers::rename))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/attach", post(containers::attach))
        .route("/containers/{id}/attach/ws", get(containers::attach_websocket))
        .route("/containers/{id}/wait", post(containers::wait))
        .route("/containers/{id}/archive", archive)
        .route("/containers/{id}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/commit", post(containers::commit))
}

fn of_images() -> Router<Engine> {
    Router::new()
        .route("/images/json", get(images::list))
        .route("/images/create", post(images::create))
        .route("/images/load", post(images::load))
        .route("/images/get", get(images::save))
        .route("/images/prune", post(images::prune))
        .route("/images/search", get(system::no_search))
        .route("/images/{*rest}", get(images::get).post(images::post).delete(images::remove))
        .route("/distribution/{*rest}", get(images::distribution))
}

fn of_others() -> Router<Engine> {
    Router::new()
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{name}", get(volumes::inspect).delete(volumes::remove))
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route("/networks/{id}", get(networks::inspect).delete(networks::remove))
        .route("/networks/{id}/connect", post(networks::connect))
        .route("/networks/{id}/disconnect", post(networks::disconnect))
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/events", get(system::events))
        .route("/system/df", get(system::disk_usage))
        .route("/auth", post(system::login))
        .route("/plugins", get(system::plugins))
}

fn of_what_is_not_here() -> Router<Engine> {
    let mut router = Router::new()
        .route("/build", post(system::build))
        .route("/build/prune", post(system::build_prune))
        .route("/session", post(system::build))
        .route("/grpc", post(system::build))
        .route("/containers/{id}/checkpoints", any(system::no_checkpoints))
        .route("/containers/{id}/checkpoints/{checkpoint}", any(system::no_checkpoints))
        .route("/plugins/{*rest}", any(system::no_plugins))
        .route("/swarm", get(system::not_in_swarm))
        .route("/swarm/leave", post(system::not_in_swarm))
        .route("/swarm/update", post(system::not_in_swarm))
        .route("/swarm/{*rest}", any(system::no_swarm));
    for noun in ["nodes", "services", "tasks", "secrets", "configs"] {
        router = router
            .route(&format!("/{noun}"), any(system::not_in_swarm))
            .route(&format!("/{noun}/{{*rest}}"), any(system::not_in_swarm));
    }
    router
}
