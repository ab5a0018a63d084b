//! What this machine has.

use super::run::blocking;
use crate::{App, error::ApiError};
use axum::{Json, extract::State};
use cortex_api::hardware::{CacheFacts, CpuFacts, GpuDriver, GpuFacts, Hardware, PowerFacts, Space, SystemFacts};
use cortex_hardware::{Gpu, Gpus, Machine};

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

/// The machine now.
pub(crate) async fn get(State(app): State<App>) -> Result<Json<Hardware>, ApiError> {
    let monitor = app.hardware.clone();
    // The disk of the data folder may be one that hangs.
    Ok(Json(shown(&blocking(move || monitor.machine()).await?)))
}

fn shown(machine: &Machine) -> Hardware {
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
            usage: machine.usage.map(|percent| (percent * 10.0).round() / 10.0),
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
        // One without memory of its own computes in the machine's, and clients divide by its size.
        gpus: gpus.gpus.iter().filter(|gpu| gpu.total > 0).enumerate().map(gpu_facts).collect(),
        power: PowerFacts {
            battery_life: machine.power.battery.unwrap_or(0),
            charging_status: machine.power.charging.clone(),
            is_power_saving: machine.power.is_saving,
        },
        gpus_pending: machine.gpus.is_none(),
        gpu_problems: gpus.problems.clone(),
    }
}

fn gpu_facts((number, gpu): (usize, &Gpu)) -> GpuFacts {
    GpuFacts {
        id: number.to_string(),
        name: gpu.name.clone(),
        version: gpu.cuda.clone(),
        additional_information: GpuDriver {
            driver_version: gpu.driver.clone(),
            compute_cap: gpu.compute_capability.clone(),
        },
        free_vram: gpu.free.map(|bytes| bytes / MIB),
        total_vram: gpu.total / MIB,
        uuid: gpu.uuid.clone(),
        // No compute module for graphics processors is installed yet.
        activated: false,
        vendor: gpu.vendor.clone(),
        usage: gpu.usage,
    }
}
