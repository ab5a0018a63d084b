//! `cortex hardware …`: what this machine has. The tables are those of cortex.cpp.

use super::{Context, daemon::ensure_running};
use crate::{
    cli::{FitArguments, HardwareArguments},
    error::CliError,
    output::bytes,
};
use cortex_api::{
    hardware::Hardware,
    native::{FitAnswer, FitList, FitRequest},
};

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
        context.printer.table(section.head, &section.rows)?;
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

/// Says whether a model fits.
pub(crate) async fn fit(context: &Context<'_>, arguments: FitArguments) -> Result<(), CliError> {
    ensure_running(context).await?;
    let request =
        FitRequest { model: Some(arguments.model), ctx_len: arguments.context, n_parallel: arguments.parallel };
    let answer: FitAnswer = context.client.post("/v1/models/fit", &request).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    let fit = match answer {
        FitAnswer::Models(list) => return fits(context, &list),
        FitAnswer::Model(fit) => fit,
    };
    let tokens = format!("context, {} × {} tokens", fit.parallel, fit.context_length);
    let rows: Vec<Vec<String>> = [
        ("weights", fit.memory.weights),
        (tokens.as_str(), fit.memory.cache),
        ("computation", fit.memory.compute + fit.memory.output),
        ("process", fit.process),
        ("together", fit.needed),
        ("available", fit.available),
        ("for models", fit.budget),
    ]
    .map(|(what, amount)| vec![what.to_owned(), bytes(amount)])
    .to_vec();
    context.printer.table(&["MEMORY", "BYTES"], &rows)?;
    context.printer.line(&fit.verdict)
}

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
                mark.into(),
            ]
        })
        .collect();
    context.printer.table(&["MODEL", "WEIGHTS", "CONTEXT", "NEEDS", "FITS", "LARGEST CONTEXT", ""], &rows)?;
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
