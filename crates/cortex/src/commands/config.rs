//! `cortex config`: what each setting is in effect, and who said so, which asks no daemon and shows what one would use that was started
//! like this; and changes.

use super::{Context, daemon::ensure_running};
use crate::{
    cli::{ConfigChanges, ServerArguments},
    error::CliError,
    settings::{OUR_KEYS, Origin, Overrides, Settings, SettingsOwner},
};
use cortex_server::SettingsRefusal;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Prints the settings that can be changed while the daemon runs, as the daemon tells them.
pub(crate) async fn status(context: &Context<'_>) -> Result<(), CliError> {
    ensure_running(context).await?;
    let values: Map<String, Value> = context.client.get("/v1/configs").await?;
    if context.printer.json {
        return context.printer.line(&Value::from(values).to_string());
    }
    let mut rows = Vec::new();
    for (name, value) in &values {
        match value {
            // One row for each of a list.
            Value::Array(items) => rows.extend(items.iter().map(|item| vec![name.clone(), shown(item)])),
            value => rows.push(vec![name.clone(), shown(value)]),
        }
    }
    context.printer.grid(&["Config name", "Value"], &rows)
}

/// Changes settings: of a running daemon at once, else in the file.
pub(crate) async fn change(context: &Context<'_>, changes: &ConfigChanges) -> Result<(), CliError> {
    let changes = wanted(changes)?;
    if changes.is_empty() {
        return Err(CliError::Usage {
            message: "Invalid configuration options provided".into(),
            hint: Some("`cortex config --help` shows them".into()),
        });
    }
    let warnings = write(context, changes).await?;
    for warning in warnings {
        context.printer.note(&warning);
    }
    context.printer.line("Configuration updated successfully!")
}

/// Writes settings, by their names of `/v1/configs`; what has no effect is the answer.
pub(super) async fn write(context: &Context<'_>, changes: Map<String, Value>) -> Result<Vec<String>, CliError> {
    if context.client.is_up().await {
        let answer: Value = context.client.patch("/v1/configs", &changes).await?;
        let warnings = answer["warnings"].as_array().into_iter().flatten();
        return Ok(warnings.filter_map(|warning| warning.as_str().map(str::to_owned)).collect());
    }
    let settings = context.settings.clone();
    settings.write_first_file()?;
    let overrides = Overrides {
        config_file: Some(settings.config_file.clone()),
        data_folder: Some(settings.data_folder.clone()),
        ..Overrides::default()
    };
    let mut owner = SettingsOwner::new(overrides, settings, None);
    let refused = |refusal: SettingsRefusal| CliError::Usage { message: refusal.to_string(), hint: None };
    Ok(owner.change(&changes).map_err(refused)?.warnings)
}

/// What the flags say, as `/v1/configs` takes it.
fn wanted(flags: &ConfigChanges) -> Result<Map<String, Value>, CliError> {
    let mut changes = Map::new();
    for (name, value) in [
        ("cors", &flags.cors),
        ("verify_proxy_ssl", &flags.verify_proxy_ssl),
        ("verify_proxy_host_ssl", &flags.verify_proxy_host_ssl),
        ("verify_peer_ssl", &flags.verify_peer_ssl),
        ("verify_host_ssl", &flags.verify_host_ssl),
    ] {
        if let Some(text) = value {
            changes.insert(name.into(), truth(name, text)?.into());
        }
    }
    for (name, value) in [
        ("proxy_url", &flags.proxy_url),
        ("proxy_username", &flags.proxy_username),
        ("proxy_password", &flags.proxy_password),
        ("no_proxy", &flags.no_proxy),
        ("huggingface_token", &flags.huggingface_token),
        ("github_token", &flags.github_token),
    ] {
        if let Some(text) = value {
            changes.insert(name.into(), text.as_str().into());
        }
    }
    for (name, value) in [("allowed_origins", &flags.allowed_origins), ("api_keys", &flags.api_keys)] {
        if let Some(text) = value {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from);
            changes.insert(name.into(), items.collect());
        }
    }
    Ok(changes)
}

/// `on`, `true` and `1`, or the opposite.
fn truth(name: &str, text: &str) -> Result<bool, CliError> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "1" | "yes" => Ok(true),
        "off" | "false" | "0" | "no" => Ok(false),
        _ => Err(CliError::Usage { message: format!("{name} is `{text}`; it must be on or off"), hint: None }),
    }
}

/// Writes what `cortex start` was told into the settings, as cortex.cpp does it.
pub(super) async fn keep(context: &Context<'_>, given: &ServerArguments) -> Result<(), CliError> {
    let flags = ConfigChanges {
        cors: given.cors.clone(),
        allowed_origins: given.origins.clone(),
        proxy_url: given.proxy_url.clone(),
        proxy_username: given.proxy_username.clone(),
        proxy_password: given.proxy_password.clone(),
        verify_proxy_ssl: given.verify_proxy.clone(),
        verify_proxy_host_ssl: given.verify_proxy_host.clone(),
        no_proxy: given.no_proxy.clone(),
        verify_peer_ssl: given.verify_ssl_peer.clone(),
        verify_host_ssl: given.verify_ssl_host.clone(),
        huggingface_token: given.hf_token.clone(),
        github_token: given.gh_token.clone(),
        api_keys: None,
    };
    let others = [
        ("sslCertPath", &given.ssl_cert_path),
        ("sslKeyPath", &given.ssl_key_path),
        ("logFolderPath", &given.logspath),
    ];
    let mut others: Vec<(&str, &str)> =
        others.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))).collect();
    let address = context.settings.address;
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    for (key, value) in [("apiServerHost", &host), ("apiServerPort", &port)] {
        if context.settings.origin(key) == Origin::CommandLine {
            others.push((key, value));
        }
    }
    let changes = wanted(&flags)?;
    if !changes.is_empty() {
        write(context, changes).await?;
    }
    if !others.is_empty() {
        context.settings.write_first_file()?;
        Settings::write_values(&context.settings.config_file, &others)?;
    }
    Ok(())
}

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
        "engineIndex" => {
            json!(settings.engine_index.as_deref().map(cortex_packages::shown_address).unwrap_or_default())
        }
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
        "sslCertPath" => json!(settings.tls_files.0.as_deref().unwrap_or(Path::new(""))),
        "sslKeyPath" => json!(settings.tls_files.1.as_deref().unwrap_or(Path::new(""))),
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
