//! What this machine has, and which of its graphics processors models may use.

use super::{registry::missing_field, run::blocking};
use crate::{App, error::ApiError, json};
use axum::{Json, body::Bytes, extract::State, http::HeaderMap};
use cortex_api::hardware::{
    ActivateRequest, Activated, CacheFacts, CpuFacts, GpuDriver, GpuFacts, Hardware, PowerFacts, Space, SystemFacts,
};
use cortex_engine::{Accelerator, AcceleratorReport};
use cortex_hardware::{Gpu, Gpus, Machine};
use cortex_models::ErrorKind;
use std::time::Duration;

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

/// The machine now.
pub(crate) async fn get(State(app): State<App>) -> Result<Json<Hardware>, ApiError> {
    let monitor = app.hardware.clone();
    // The disk of the data folder may be one that hangs.
    let machine = blocking(move || monitor.machine()).await?;
    Ok(Json(shown(&machine, &app.engines.accelerators())))
}

/// Lets the models that are loaded from now on use the graphics processors with these numbers, and no others.
pub(crate) async fn activate(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Activated>, ApiError> {
    let request: ActivateRequest = json::required(&headers, &body)?;
    let wanted = request.gpus.ok_or_else(|| missing_field("gpus"))?;
    // The numbers mean nothing before the drivers have answered.
    let mut known = app.engines.watch_accelerators();
    let answered = async { known.wait_for(|report| !report.is_pending).await.is_ok() };
    if !tokio::time::timeout(DRIVERS, answered).await.unwrap_or(false) {
        let message = "the drivers of graphics processors have not answered yet; ask again in a moment";
        let mut error = ApiError::new(ErrorKind::Unavailable, "hardware_pending", message);
        error.retry_after = Some(5);
        return Err(error);
    }
    let report = app.engines.accelerators();
    let monitor = app.hardware.clone();
    let machine = blocking(move || monitor.machine()).await?;
    let unknown = Gpus::default();
    let cards = cards(machine.gpus.as_deref().unwrap_or(&unknown), &report);
    let mut on = Vec::new();
    for number in &wanted {
        let card = ActivateRequest::index(number).and_then(|it| cards.get(it));
        on.push(card.ok_or_else(invalid_index)?.key.clone());
    }
    let all: Vec<String> = cards.iter().map(|card| card.key.clone()).collect();
    let engines = app.engines.clone();
    let has_changed = blocking(move || engines.switch_accelerators(&all, &on)).await?.map_err(|why| {
        let why = format!("the choice cannot be kept in state/graphics.json: {why}");
        ApiError::told(ErrorKind::Internal, "io_error", &why, Some("nothing was changed".into()))
    })?;
    let report = app.engines.accelerators();
    let problems: Vec<String> = cards
        .iter()
        .filter(|card| report.is_on(&card.key))
        .filter_map(|card| Some(format!("{}: {}", card.name(), problem(card, &report)?)))
        .collect();
    let message = match (has_changed, problems.is_empty()) {
        (false, _) => "The hardware configuration is already up to date.".to_owned(),
        (true, true) => "The hardware configuration has been activated.".into(),
        (true, false) => format!("The hardware configuration has been activated. Not used: {}", problems.join("; ")),
    };
    let activated_gpus = (0..cards.len()).filter(|&at| problem(&cards[at], &report).is_none()).collect();
    Ok(Json(Activated { message, activated_gpus }))
}

fn invalid_index() -> ApiError {
    ApiError::field("gpus", "Invalid GPU index provided.")
}

/// How long a request waits for drivers that are asked just now.
const DRIVERS: Duration = Duration::from_secs(5);

/// A graphics processor, as its driver or a compute module tells of it.
struct Card<'facts> {
    gpu: Option<&'facts Gpu>,
    accelerator: Option<&'facts Accelerator>,
    /// What a choice of it is kept by.
    key: String,
}

impl Card<'_> {
    fn name(&self) -> &str {
        match (self.gpu, self.accelerator) {
            (Some(gpu), _) => &gpu.name,
            (None, Some(accelerator)) => &accelerator.device.description,
            (None, None) => "",
        }
    }
}

/// All graphics processors, in the order of their numbers: those that a driver tells of, then those that only a compute
/// module knows. One without memory of its own is listed only when a module can use it: clients divide by its memory.
fn cards<'facts>(gpus: &'facts Gpus, report: &'facts AcceleratorReport) -> Vec<Card<'facts>> {
    let of = |bus: &str| report.devices.iter().find(|it| !bus.is_empty() && it.key == bus);
    let told = gpus.gpus.iter().map(|gpu| Card {
        gpu: Some(gpu),
        accelerator: of(&gpu.bus),
        key: if gpu.bus.is_empty() { gpu.uuid.clone() } else { gpu.bus.clone() },
    });
    let mut cards: Vec<Card<'_>> =
        told.filter(|it| it.accelerator.is_some() || it.gpu.is_some_and(|gpu| gpu.total > 0)).collect();
    for accelerator in &report.devices {
        if !cards.iter().any(|card| card.key == accelerator.key) {
            cards.push(Card { gpu: None, accelerator: Some(accelerator), key: accelerator.key.clone() });
        }
    }
    cards
}

/// Why models do not use one; `None` when they do.
fn problem(card: &Card<'_>, report: &AcceleratorReport) -> Option<String> {
    let Some(accelerator) = card.accelerator else {
        return Some(match report.why_not() {
            Some(why) if report.devices.is_empty() => why,
            _ => "no compute module that is installed can use it".into(),
        });
    };
    if let Some(fault) = &accelerator.fault {
        return Some(fault.clone());
    }
    if !report.is_on(&card.key) {
        return Some("it is switched off".into());
    }
    let is_used = report.used().iter().any(|it| it.key == card.key);
    (!is_used).then(|| "models use one with memory of its own instead".into())
}

fn shown(machine: &Machine, report: &AcceleratorReport) -> Hardware {
    let facts = &machine.facts;
    let (cpu, topology) = (&facts.cpu, &facts.topology);
    let kinds = (topology.efficiency_cores > 0).then_some((topology.performance_cores, topology.efficiency_cores));
    let unknown = Gpus::default();
    let gpus = machine.gpus.as_deref().unwrap_or(&unknown);
    Hardware {
        cpu: CpuFacts {
            arch: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
            .into(),
            cores: topology.threads,
            model: cpu.model.clone(),
            // Clients of cortex.cpp compute with it: before the second look at the processor it is 0.
            usage: Some(machine.usage.map_or(0.0, |percent| (percent * 10.0).round() / 10.0)),
            instructions: cpu.instruction_sets().map(str::to_owned).collect(),
            physical_cores: cpu.cores,
            performance_cores: kinds.map(|(performance, _)| performance),
            efficiency_cores: kinds.map(|(_, efficiency)| efficiency),
            caches: topology
                .caches
                .iter()
                .map(|cache| CacheFacts { level: cache.level, kind: cache.kind.clone(), size: cache.size / 1024 })
                .collect(),
            limit: machine.processor_limit,
        },
        os: SystemFacts {
            name: facts.system.name.clone(),
            version: facts.system.version.clone(),
            kernel: cpu.kernel.clone(),
        },
        ram: Space {
            total: machine.memory.total / MIB,
            available: machine.memory.available / MIB,
            kind: if machine.is_memory_limited { "limited" } else { "" }.into(),
        },
        storage: Space {
            total: machine.storage.total / MIB,
            available: machine.storage.available / MIB,
            kind: machine.storage.kind.clone(),
        },
        gpus: cards(gpus, report).iter().enumerate().map(|it| gpu_facts(it, report)).collect(),
        power: PowerFacts {
            battery_life: machine.power.battery.unwrap_or(0),
            charging_status: machine.power.charging.clone(),
            is_power_saving: machine.power.is_saving,
        },
        gpus_pending: machine.gpus.is_none() || report.is_pending,
        gpu_problems: gpus.problems.iter().chain(&report.problems).cloned().collect(),
    }
}

fn gpu_facts((number, card): (usize, &Card<'_>), report: &AcceleratorReport) -> GpuFacts {
    let device = card.accelerator.map(|it| &it.device);
    let unknown = Gpu::default();
    let gpu = card.gpu.unwrap_or(&unknown);
    // What the driver tells is newer than what the module said once.
    let (total, free) = match (gpu.total, device) {
        (0, Some(device)) => (device.total, Some(device.free)),
        (total, _) => (total, gpu.free),
    };
    let problem = problem(card, report);
    GpuFacts {
        id: number.to_string(),
        name: card.name().to_owned(),
        version: gpu.cuda.clone(),
        additional_information: GpuDriver {
            driver_version: gpu.driver.clone(),
            compute_cap: gpu.compute_capability.clone(),
        },
        free_vram: free.map(|bytes| bytes / MIB),
        total_vram: total / MIB,
        uuid: if gpu.uuid.is_empty() { card.key.clone() } else { gpu.uuid.clone() },
        activated: problem.is_none(),
        device: device.map(|it| it.name.clone()),
        problem,
        vendor: gpu.vendor.clone(),
        usage: gpu.usage,
    }
}

/// What `cortex doctor` says of graphics processors: each, and whether it is used.
pub(crate) fn explained(machine: &Machine, report: &AcceleratorReport) -> Vec<String> {
    let unknown = Gpus::default();
    let gpus = machine.gpus.as_deref().unwrap_or(&unknown);
    let cards = cards(gpus, report);
    let mut said: Vec<String> = cards
        .iter()
        .map(|card| match (problem(card, report), card.accelerator) {
            (Some(why), _) => format!("{}: not used: {why}", card.name()),
            (None, Some(it)) => format!("{}: used, as {}", card.name(), it.device.name),
            (None, None) => card.name().to_owned(),
        })
        .collect();
    said.extend(gpus.problems.iter().chain(&report.problems).cloned());
    if machine.gpus.is_none() || report.is_pending {
        said.push("the drivers have not answered yet; one may hang".into());
    } else if said.is_empty() {
        said.push("there is no graphics processor; models run on the processor".into());
    }
    said
}
