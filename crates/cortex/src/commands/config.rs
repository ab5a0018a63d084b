//! `cortex config show`: what each setting is in effect, and who said so. Asks no daemon: it shows what one would use that was
//! started like this.

use super::Context;
use crate::{
    error::CliError,
    settings::{OUR_KEYS, Origin, Settings},
};
use serde_json::{Value, json};

/// Prints the settings.
pub(crate) fn show(context: &Context<'_>) -> Result<(), CliError> {
    let settings = context.settings;
    let rows: Vec<(&str, Value, String)> =
        OUR_KEYS.iter().map(|&key| (key, value(settings, key), settings.origin(key).to_string())).collect();
    if context.printer.json {
        let list: Vec<Value> =
            rows.iter().map(|(key, value, origin)| json!({"setting": key, "value": value, "origin": origin})).collect();
        return context.printer.line(&json!({"file": settings.config_file, "settings": list}).to_string());
    }
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(key, value, origin)| vec![key.to_owned(), shown(&value), origin]).collect();
    context.printer.table(&["SETTING", "VALUE", "FROM"], &rows)?;
    context.printer.note(&format!("the settings file is {}", settings.config_file.display()));
    for warning in &settings.warnings {
        context.printer.note(warning);
    }
    Ok(())
}

/// What a setting is in effect. Secrets are not shown.
fn value(settings: &Settings, key: &str) -> Value {
    let secret = |is_set: bool| json!(if is_set { "(set, not shown)" } else { "" });
    let proxy = settings.outbound.proxy.as_ref();
    let mut endpoint = settings.outbound.endpoint.clone();
    if endpoint.set_username("").and(endpoint.set_password(None)).is_err() {
        return json!("(not shown)");
    }
    match key {
        "dataFolderPath" => json!(settings.data_folder),
        "logFolderPath" => json!(settings.logs_folder.parent()),
        "apiServerHost" => json!(settings.address.ip().to_string()),
        "apiServerPort" => json!(settings.address.port()),
        "enableCors" => json!(settings.cors),
        "allowedOrigins" => json!(settings.allowed_origins),
        "allowedHosts" => json!(settings.allowed_hosts),
        "allowedImageHosts" => json!(settings.allowed_image_hosts),
        "apiKeys" => secret(!settings.api_keys.is_empty()),
        "workerPath" => json!(settings.worker_program),
        "maxLoadedModels" => json!(settings.max_loaded),
        "promptCacheBytes" => json!(settings.prompt_cache_bytes),
        "memoryLock" => json!(settings.memory_lock),
        "memoryLimitBytes" => json!(settings.memory_limit.unwrap_or(0)),
        "maxQueuedRequests" => json!(settings.max_queued),
        "swapAfterSeconds" => json!(settings.patience.as_secs()),
        "preloadModels" => json!(settings.preload),
        "idleUnloadSeconds" => json!(settings.idle_unload.as_secs()),
        "workerSilenceSeconds" => json!(settings.worker_silence.as_secs()),
        "contextLength" => json!(settings.context_length),
        "parallel" => json!(settings.parallel),
        "threads" => json!(settings.threads),
        "cacheType" => json!(settings.cache_type.name()),
        "bodyLimitBytes" => json!(settings.body_limit),
        "shutdownGraceSeconds" => json!(settings.shutdown_grace.as_secs()),
        "huggingFaceToken" => secret(settings.outbound.token.is_some()),
        "huggingFaceEndpoint" => json!(endpoint.as_str()),
        "allowedDownloadHosts" => json!(settings.outbound.allowed_hosts),
        "downloadConnections" => json!(settings.pulls.connections),
        "downloadBytesPerSecond" => json!(settings.pulls.rate.unwrap_or(0)),
        "resumeDownloads" => json!(settings.pulls.resume),
        // A proxy's address may hold a password. Without an address the others have no effect, and are secrets all the same.
        "proxyUrl" => secret(proxy.is_some()),
        "proxyUsername" | "proxyPassword" => secret(settings.origin(key) != Origin::Default),
        "noProxy" => json!(proxy.map_or("", |it| it.no_proxy.as_str())),
        "verifyPeerSsl" => json!(settings.outbound.verify_certificates),
        _ => Value::Null,
    }
}

/// A value in a table.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Overrides;

    #[test]
    fn every_setting_has_a_value() {
        let folder = tempfile::tempdir().unwrap();
        let overrides = Overrides {
            config_file: Some(folder.path().join("none")),
            data_folder: Some(folder.path().to_owned()),
            ..Overrides::default()
        };
        let settings = Settings::load(&overrides).unwrap();
        for key in OUR_KEYS {
            assert_ne!(value(&settings, key), Value::Null, "{key}");
        }
    }
}
