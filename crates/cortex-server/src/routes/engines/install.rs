//! Packages of compute modules: installed, followed, updated, removed.

use super::{
    LOCAL, Which, invalid, must_be_local,
    variants::{self, VERSION, variant_name},
    which,
};
use crate::{App, edge::LocalUser, error::ApiError, routes::run::blocking, sse};
use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use cortex_api::{
    native::Message,
    pulls::{DownloadFrame, DownloadItem, DownloadTask},
};
use cortex_models::ErrorKind;
use cortex_packages::{Archive, Event, EventKind, PackageError, Progress, bare, is_newer};
use futures::stream;
use serde_json::{Value, json};
use std::{collections::VecDeque, convert::Infallible, time::Duration};
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// Silence after which a comment keeps the connection alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

impl From<PackageError> for ApiError {
    fn from(error: PackageError) -> Self {
        Self::told(error.kind(), error.code(), &error, error.hint())
    }
}

/// What clients are told of an install.
pub(in crate::routes) fn task(progress: &Progress) -> DownloadTask {
    DownloadTask {
        id: progress.name.clone(),
        items: vec![DownloadItem {
            bytes: progress.bytes,
            checksum: "N/A".into(),
            download_url: progress.url.clone(),
            downloaded_bytes: progress.downloaded,
            id: progress.name.clone(),
            local_path: format!("engines/{LOCAL}/{}/{}", progress.variant, progress.version),
        }],
        kind: "Engine".into(),
    }
}

/// The frame of what happened.
pub(in crate::routes) fn frame(event: &Event) -> DownloadFrame {
    let kind = match event.kind {
        EventKind::Started => "DownloadStarted",
        EventKind::Updated => "DownloadUpdated",
        EventKind::Succeeded => "DownloadSuccess",
        EventKind::Failed => "DownloadError",
        EventKind::Stopped => "DownloadStopped",
    };
    DownloadFrame { message: event.message.clone(), task: task(&event.progress), kind: kind.into() }
}

/// What comes of the installs, for one listener.
pub(in crate::routes) struct Installs {
    app: App,
    waiting: VecDeque<Event>,
    events: Receiver<Event>,
    lagged: bool,
}

impl Installs {
    pub(in crate::routes) fn of(app: &App) -> Self {
        let (fresh, events) = app.packages.events();
        Self { app: app.clone(), waiting: fresh.into(), events, lagged: false }
    }

    /// The next event; `None` when there will be none. A listener that is far behind may miss even an end: then it `lagged`.
    pub(in crate::routes) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(_)) => *self = Self { lagged: true, ..Self::of(&self.app) },
            }
        }
    }
}

/// Follows all installs, until the client leaves.
pub(crate) async fn follow(State(app): State<App>, Path(name): Path<String>) -> Result<Response, ApiError> {
    must_be_local(&name)?;
    let stop = app.stop.clone();
    let installs = Installs::of(&app);
    // A first line at once, so that a client knows that it misses nothing from now on.
    let body = stream::unfold((true, installs, stop), async |(is_first, mut installs, stop)| {
        let text = if is_first {
            ": hello\n\n".into()
        } else {
            let next = tokio::time::timeout(KEEP_ALIVE, installs.next());
            match stop.run_until_cancelled(next).await? {
                Err(_) => ": still here\n\n".to_owned(),
                // It has to ask how things are.
                Ok(_) if installs.lagged => return None,
                Ok(event) => sse::data(&frame(&event?)),
            }
        };
        Some((Ok::<_, Infallible>(Bytes::from(text)), (false, installs, stop)))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Installs a variant: nothing is to be done for one that is there; others come from a folder of this machine, or from the index.
pub(crate) async fn install(
    State(app): State<App>,
    Extension(user): Extension<LocalUser>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    must_be_local(&name)?;
    let Which { variant, version, source } = which(&headers, &body)?;
    let (variant, version) = (variant.filter(|it| !it.is_empty()), version.filter(|it| !it.is_empty()));
    if let Some(folder) = source {
        if !user.0 {
            // What lies there is run. Who can read the token can run programs anyway.
            return Err(invalid(
                "not_local",
                "archives of this machine are installed on the command line of its user, told the daemon's data folder: cortex engines install NAME -s FOLDER",
            )
            .with_status(StatusCode::FORBIDDEN));
        }
        let installed = app.packages.install_from(&folder, variant.as_deref(), version.as_deref()).await?;
        if installed.is_none() && !app.packages.has_index() && variant.is_none() {
            let folder = folder.display();
            return Err(invalid("no_archive", format!("{folder} has no archive of llama-cpp for this machine")));
        }
        if let Some(installed) = installed {
            return Ok(Json(json!({
                "message": format!("Engine {name} installed successfully!"),
                "variant": installed.variant,
                "version": format!("v{}", installed.version),
            })));
        }
    }
    let begins = |task: DownloadTask| Ok(Json(json!({"message": "Engine starts installing!", "task": task})));
    let wanted = match &variant {
        Some(variant) => Some(variant.clone()),
        None => suitable(&app, version.as_deref()).await?,
    };
    let there = match &wanted {
        Some(wanted) => variants::find(&app, wanted, version.as_deref()),
        // Without a word, what works here is meant, and that is part of every build.
        None => variants::chosen(&app).await.filter(|it| version.is_none() || it.has_version(version.as_deref())),
    };
    match (there, wanted) {
        (Some(there), _) => begins(task(&app.packages.already_there(&there.name, bare(&there.version)))),
        (None, Some(wanted)) if app.packages.has_index() => {
            let archive = app.packages.offer(&wanted, version.as_deref()).await?;
            begins(task(&app.packages.begin(archive)))
        }
        (None, None) if app.packages.has_index() => {
            let release = app.packages.release(version.as_deref()).await?;
            Err(invalid("no_variant", format!("say which variant of {} is meant", release.version)))
        }
        (None, wanted) => Err(not_there(&app, &name, wanted.as_deref(), version.as_deref())),
    }
}

/// What cannot be had, without an index.
fn not_there(app: &App, name: &str, variant: Option<&str>, version: Option<&str>) -> ApiError {
    let there = variants::all(app);
    let hint = "`engineIndex` in the settings names where more can be had";
    if let Some(version) = version
        && !there.iter().any(|it| it.has_version(Some(version)))
    {
        return invalid("no_release", format!("No release found for {version}; this build has {VERSION}; {hint}"));
    }
    let names: Vec<String> = there.into_iter().map(|it| it.name).collect();
    let variant = variant.unwrap_or("any");
    let message = format!(
        "Failed to find a suitable variant for {name}: {variant} is not here, but {}; {hint}",
        names.join(", ")
    );
    invalid("no_variant", message)
}

/// The variant for the graphics processors of this machine that the index has; none is what the build has.
async fn suitable(app: &App, version: Option<&str>) -> Result<Option<String>, PackageError> {
    let gpus = app.hardware.machine().gpus.filter(|gpus| !gpus.gpus.is_empty());
    let Some(gpus) = gpus.filter(|_| app.packages.has_index()) else { return Ok(None) };
    let is_nvidia = gpus.gpus.iter().any(|gpu| gpu.vendor.eq_ignore_ascii_case("nvidia"));
    let release = app.packages.release(version).await?;
    let modules: &[&str] = if is_nvidia { &["cuda", "vulkan"] } else { &["vulkan"] };
    let of_module = |module: &&str| {
        let begins = variant_name(module);
        release.archives.iter().find(|archive| archive.variant.starts_with(&begins)).map(|it| it.variant.clone())
    };
    Ok(modules.iter().find_map(of_module))
}

/// Removes packages, or an engine on another machine. The modules of this build are part of it, and stay.
pub(crate) async fn uninstall(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Message>, ApiError> {
    let gone = |name: &str| Json(Message { message: format!("Engine {name} uninstalled successfully!") });
    if !super::is_local(&name) {
        let (remotes, engine) = (app.remotes.clone(), name.clone());
        blocking(move || remotes.remove(&engine)).await??;
        return Ok(gone(&name));
    }
    let Which { variant, version, .. } = which(&headers, &body)?;
    let (variant, version) = (variant.filter(|it| !it.is_empty()), version.filter(|it| !it.is_empty()));
    if variant.is_none() && version.is_some() {
        return Err(invalid("no_variant", "No variant provided"));
    }
    let there: Vec<variants::Variant> = variants::all(&app)
        .into_iter()
        .filter(|it| variant.as_deref().is_none_or(|variant| it.is_called(variant)))
        .filter(|it| version.is_none() || it.has_version(version.as_deref()))
        .collect();
    let full = there.iter().find(|it| !it.is_of_build);
    if let Some(package) = full {
        let chosen = variants::chosen(&app).await;
        let named = variant.is_some().then_some(package.name.as_str());
        // `latest` is the one in use.
        let version = version.is_some().then_some(package.version.as_str());
        app.packages.remove(named, version).await?;
        // Who chose what is gone has chosen nothing.
        if let Some(chosen) = chosen.filter(|it| !it.is_of_build)
            && variants::find(&app, &chosen.name, Some(&chosen.version)).is_none()
            && app.engines.pinned_module().as_ref() == Some(&chosen.module)
        {
            let engines = app.engines.clone();
            blocking(move || engines.pin_module(None)).await?.map_err(|error| {
                ApiError::new(ErrorKind::Internal, "not_written", format!("the choice cannot be taken back: {error}"))
            })?;
        }
        return Ok(gone(&name));
    }
    if there.is_empty() {
        return Err(PackageError::NotInstalled.into());
    }
    let message =
        format!("the compute modules of {name} are part of this build of cortex and cannot be removed one by one");
    Err(invalid("part_of_cortex", message))
}

/// Installs what the index has that is newer: of the variant in use, and of all packages.
pub(super) async fn update(app: &App, name: &str) -> Result<Json<Value>, ApiError> {
    let Some(chosen) = variants::chosen(app).await else {
        return Err(invalid("no_default", format!("Default engine variant for {name} is not set yet!")));
    };
    let mut begun: Option<(variants::Variant, Progress)> = None;
    if app.packages.has_index() {
        let failed = |error: PackageError| {
            let hint = error.hint();
            ApiError::told(error.kind(), error.code(), &format!("Failed to get latest version: {error}"), hint)
        };
        let release = match app.packages.release(None).await {
            // Nothing is out for this cortex: what is here is the newest.
            Err(PackageError::NoRelease { .. }) => None,
            other => Some(other.map_err(failed)?),
        };
        let mut in_use = variants::all(app);
        in_use.retain(|it| it.is_current && (!it.is_of_build || it.name == chosen.name));
        // What somebody chose is named in the answer.
        in_use.sort_by_key(|it| it.name != chosen.name);
        let newer = |it: &variants::Variant| -> Option<Archive> {
            let archive = release.as_ref()?.archives.iter().find(|archive| archive.variant == it.name)?;
            is_newer(&archive.version, &it.version).then(|| archive.clone())
        };
        for variant in in_use {
            if let Some(archive) = newer(&variant) {
                let progress = app.packages.begin(archive);
                begun.get_or_insert((variant, progress));
            }
        }
    }
    let Some((variant, progress)) = begun else {
        let message = format!("Engine {name}, {} is already up-to-date! Version {}", chosen.name, chosen.version);
        return Err(invalid("up_to_date", message));
    };
    Ok(Json(json!({
        "engine": LOCAL,
        "variant": variant.name,
        "from": variant.version,
        "to": format!("v{}", progress.version),
        "task": task(&progress),
    })))
}
