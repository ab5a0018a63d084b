//! `cortex hardware …`: what this machine has. The tables are those of cortex.cpp.

use super::{Context, daemon::ensure_running};
use crate::{
    cli::{FitArguments, HardwareArguments},
    error::CliError,
    output::bytes,
};
use cortex_api::{
    hardware::{ActivateRequest, Activated, Hardware},
    native::{FitAnswer, FitList, FitRequest},
};
use std::time::Duration;

/// Shows the machine, or parts of it.
pub(crate) async fn list(context: &Context<'_>, arguments: &HardwareArguments) -> Result<(), CliError> {
    ensure_running(context).await?;
    let hardware: Hardware = context.client.get("/v1/hardware").await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(hardware).to_string());
    }
    let wanted = [arguments.cpu, arguments.os, arguments.ram, arguments.gpu, arguments.storage, arguments.power];
    let all = !wanted.contains(&true);
    for (section, is_wanted) in sections(&hardware).into_iter().zip(wanted) {
        if !all && !is_wanted {
            continue;
        }
        context.printer.line(&format!("{} Information:", section.title))?;
        context.printer.grid(section.head, &section.rows)?;
    }
    if all || arguments.gpu {
        if hardware.gpus_pending {
            context.printer.note("the drivers of graphics processors have not answered yet; a moment later they have");
        }
        for problem in &hardware.gpu_problems {
            context.printer.note(problem);
        }
    }
    Ok(())
}

/// Chooses the graphics processors that models may use from now on.
pub(crate) async fn activate(context: &Context<'_>, gpus: &str) -> Result<(), CliError> {
    let numbers = numbers(gpus).ok_or_else(|| CliError::Usage {
        message: format!("--gpus is `{gpus}`; it must be numbers: 0 or [0, 1], or [] for none"),
        hint: Some("`cortex hardware list --gpu` shows them".into()),
    })?;
    ensure_running(context).await?;
    let request = ActivateRequest { gpus: Some(numbers.into_iter().map(Into::into).collect()) };
    let answer: Activated = context.client.post("/v1/hardware/activate", &request).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    if let Some((_, problems)) = answer.message.split_once("Not used: ") {
        context.printer.note(&format!("not used: {problems}"));
    }
    let active: Vec<String> = answer.activated_gpus.iter().map(ToString::to_string).collect();
    context.printer.line(&if active.is_empty() {
        "Deactivated all GPUs!".to_owned()
    } else {
        format!("Activated GPUs: {}", active.join(" "))
    })
}

/// The numbers of `[0, 1]`, `0,1` or `0 1`; nothing when there is something else.
fn numbers(text: &str) -> Option<Vec<i64>> {
    let inside = text.trim();
    let inside = match (inside.strip_prefix('['), inside.strip_suffix(']')) {
        (Some(_), Some(_)) => &inside[1..inside.len() - 1],
        (None, None) if !inside.is_empty() => inside,
        _ => return None,
    };
    let parts = inside.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.trim_matches(['"', '\'']).parse().ok()).collect()
}

/// Says whether a model fits.
pub(crate) async fn fit(context: &Context<'_>, arguments: FitArguments) -> Result<(), CliError> {
    ensure_running(context).await?;
    let request = FitRequest {
        model: Some(of_file(arguments.model)),
        ctx_len: arguments.context,
        n_parallel: arguments.parallel,
        cache_type: arguments.cache_type,
        ngl: arguments.ngl,
        exact: Some(true),
    };
    let answer = with_speed(context, &request).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    let fit = match answer {
        FitAnswer::Models(list) => return fits(context, &list),
        FitAnswer::Model(fit) => fit,
    };
    let tokens = format!("context, {} × {} tokens", fit.parallel, fit.context_length);
    let on_graphics = fit.graphics.as_ref().map(|graphics| graphics.needed);
    let rows: Vec<Vec<String>> = [
        ("weights", fit.memory.weights),
        (tokens.as_str(), fit.memory.cache),
        ("computation", fit.memory.compute + fit.memory.output),
        ("process", fit.process),
        ("on graphics processors", on_graphics.unwrap_or(0)),
        ("memory needed", fit.needed),
        ("available", fit.available),
        ("for models", fit.budget),
    ]
    .iter()
    .filter(|(what, _)| on_graphics.is_some() || *what != "on graphics processors")
    .map(|(what, amount)| vec![(*what).to_owned(), bytes(*amount)])
    .collect();
    context.printer.table(&["MEMORY", "BYTES"], &rows)?;
    context.printer.line(&fit.verdict)?;
    if let Some(largest) = fit.largest_context {
        let at_a_time =
            if fit.parallel == 1 { "one request".into() } else { format!("{} requests at a time", fit.parallel) };
        context.printer.line(&format!("the largest context that fits, for {at_a_time}, is {largest} tokens"))?;
    }
    match &fit.speed {
        Some(speed) => context.printer.line(&format!(
            "about {:.0} tokens a second of an answer and {:.0} of a prompt, on the processor ({}, bound by {})",
            speed.predicted_per_second, speed.prompt_per_second, speed.source, speed.bound
        )),
        None if fit.speed_pending => {
            context.printer.note("how fast it is can be said once this machine was measured, while no model answers");
            Ok(())
        }
        None => Ok(()),
    }
}

/// A file of this machine by its whole path: the daemon may run in another folder.
fn of_file(model: String) -> String {
    let path = std::path::Path::new(&model);
    // A name without either is a model's, also when a file happens to be called like that.
    let is_path = path.components().count() > 1 || path.extension().is_some_and(|it| it.eq_ignore_ascii_case("gguf"));
    match std::path::absolute(path) {
        Ok(absolute) if is_path && path.is_file() => absolute.display().to_string(),
        _ => model,
    }
}

/// Asks, and waits for the measurement that the first question begins.
async fn with_speed(context: &Context<'_>, request: &FitRequest) -> Result<FitAnswer, CliError> {
    let deadline = tokio::time::Instant::now() + MEASUREMENT;
    loop {
        let answer: FitAnswer = context.client.post("/v1/models/fit", request).await?;
        let is_pending = match &answer {
            FitAnswer::Models(list) => list.data.iter().any(|fit| fit.speed_pending),
            FitAnswer::Model(fit) => fit.speed_pending,
        };
        if !is_pending || tokio::time::Instant::now() > deadline {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// How long a command waits until this machine was measured: longer when models answer, and not for ever.
const MEASUREMENT: Duration = Duration::from_mins(1);

/// The models of a repository.
fn fits(context: &Context<'_>, list: &FitList) -> Result<(), CliError> {
    let rows: Vec<Vec<String>> = list
        .data
        .iter()
        .map(|fit| {
            let answer = if fit.fits {
                "yes"
            } else if fit.loads {
                "with less"
            } else {
                "no"
            };
            let mark = if list.recommended.as_ref() == Some(&fit.model) { "recommended" } else { "" };
            vec![
                fit.model.clone(),
                bytes(fit.memory.weights),
                format!("{} × {}", fit.parallel, fit.context_length),
                bytes(fit.needed),
                answer.into(),
                fit.largest_context.map_or_else(|| "-".into(), |tokens| tokens.to_string()),
                fit.speed.as_ref().map_or_else(|| "-".into(), |it| format!("{:.1}", it.predicted_per_second)),
                mark.into(),
            ]
        })
        .collect();
    context
        .printer
        .table(&["MODEL", "WEIGHTS", "CONTEXT", "NEEDS", "FITS", "LARGEST CONTEXT", "TOKENS/S", ""], &rows)?;
    if let Some(first) = list.data.first() {
        context.printer.note(&format!(
            "{} can be used of {} that are available",
            bytes(first.budget),
            bytes(first.available)
        ));
    }
    Ok(())
}

/// A table and what stands above it.
struct Section {
    title: &'static str,
    head: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

/// The tables, in the order of the flags.
fn sections(hardware: &Hardware) -> [Section; 6] {
    let number = |text: Option<u64>| text.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let yes_no = |yes: bool| if yes { "Yes" } else { "No" }.to_owned();
    let first = || "1".to_owned();
    let (cpu, power) = (&hardware.cpu, &hardware.power);
    let gpus = hardware.gpus.iter().enumerate().map(|(at, gpu)| {
        vec![
            (at + 1).to_string(),
            gpu.id.clone(),
            gpu.name.clone(),
            gpu.version.clone(),
            gpu.total_vram.to_string(),
            number(gpu.free_vram),
            gpu.additional_information.driver_version.clone(),
            gpu.additional_information.compute_cap.clone(),
            yes_no(gpu.activated),
        ]
    });
    let usage = cpu.usage.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1}"));
    let gib = |mib: u64| (mib / 1024).to_string();
    [
        Section {
            title: "CPU",
            head: &["#", "Arch", "Cores", "Model", "Usage", "Instructions"],
            rows: vec![vec![
                first(),
                cpu.arch.clone(),
                cpu.cores.to_string(),
                cpu.model.clone(),
                usage,
                cpu.instructions.join(" "),
            ]],
        },
        Section {
            title: "OS",
            head: &["#", "Version", "Name"],
            rows: vec![vec![first(), hardware.os.version.clone(), hardware.os.name.clone()]],
        },
        Section {
            title: "RAM",
            head: &["#", "Total (MiB)", "Available (MiB)"],
            rows: vec![vec![first(), hardware.ram.total.to_string(), hardware.ram.available.to_string()]],
        },
        Section {
            title: "GPU",
            head: &[
                "#",
                "GPU ID",
                "Name",
                "Version",
                "Total (MiB)",
                "Available (MiB)",
                "Driver Version",
                "Compute Capability",
                "Activated",
            ],
            rows: gpus.collect(),
        },
        Section {
            title: "Storage",
            head: &["#", "Total (GiB)", "Available (GiB)"],
            rows: vec![vec![first(), gib(hardware.storage.total), gib(hardware.storage.available)]],
        },
        Section {
            title: "Power",
            head: &["#", "Battery Life", "Charging Status", "Power Saving"],
            rows: vec![vec![
                first(),
                power.battery_life.to_string(),
                power.charging_status.clone(),
                yes_no(power.is_power_saving),
            ]],
        },
    ]
}
