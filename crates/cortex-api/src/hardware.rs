//! The shape of the machine, as cortex.cpp told it and with what it left out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /v1/hardware`. Amounts of memory and disk are MiB (2^20 bytes).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hardware {
    /// Processors.
    pub cpu: CpuFacts,
    /// Operating system.
    pub os: SystemFacts,
    /// Memory, within the limit of the daemon's control group.
    pub ram: Space,
    /// The disk that the data folder is on.
    pub storage: Space,
    /// Graphics processors with memory of their own.
    pub gpus: Vec<GpuFacts>,
    /// Power.
    pub power: PowerFacts,
    /// The drivers were not asked yet, or have not answered: `gpus` may lack some.
    pub gpus_pending: bool,
    /// Sentences about graphics processors that cannot be used.
    pub gpu_problems: Vec<String>,
}

/// Processors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CpuFacts {
    /// `amd64` or `arm64`.
    pub arch: String,
    /// Threads that run at the same time, as far as the daemon may use them.
    pub cores: usize,
    /// The maker's name for it.
    pub model: String,
    /// Percent that was busy between this call and the one before; `null` at the first one.
    pub usage: Option<f32>,
    /// Instruction sets that it announces and that make a difference, by the names of the Linux kernel.
    pub instructions: Vec<String>,
    /// Cores, hyper-threads not counted.
    pub physical_cores: usize,
    /// Cores of the fast kind; `null` when all are alike.
    pub performance_cores: Option<usize>,
    /// Cores of the frugal kind; `null` when all are alike.
    pub efficiency_cores: Option<usize>,
    /// The caches of a core.
    pub caches: Vec<CacheFacts>,
    /// Processors that the control group of the daemon may use, with fractions; `null` without a limit.
    pub limit: Option<f64>,
}

/// A cache of a core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheFacts {
    /// 1 is the nearest.
    pub level: u32,
    /// `Data`, `Instruction` or `Unified`.
    #[serde(rename = "type")]
    pub kind: String,
    /// KiB.
    pub size: u64,
}

/// Operating system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SystemFacts {
    /// Its name and version, as people know it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Release of the kernel.
    pub kernel: String,
}

/// Memory or disk, in MiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What is left.
    pub available: u64,
    /// Of a disk `SSD` or `HDD`; of memory `limited` when it is what a control group allows; else empty.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuFacts {
    /// Its number, from 0.
    pub id: String,
    /// What its driver calls it.
    pub name: String,
    /// The newest CUDA that the driver can run; empty for other makers.
    pub version: String,
    /// What only some drivers tell.
    pub additional_information: GpuDriver,
    /// MiB that are free; `null` when that cannot be told now.
    pub free_vram: Option<u64>,
    /// MiB of its own memory.
    pub total_vram: u64,
    /// The maker's lasting name for it.
    pub uuid: String,
    /// Whether the models that are loaded from now on may use it.
    pub activated: bool,
    /// The engine's name for it: `Vulkan0`; `null` when no compute module can use it.
    #[serde(default)]
    pub device: Option<String>,
    /// Why models do not use it; `null` when they do.
    #[serde(default)]
    pub problem: Option<String>,
    /// `NVIDIA`, `AMD`, `Intel`.
    pub vendor: String,
    /// Percent of the time that it was busy lately; `null` when that cannot be told.
    pub usage: Option<u8>,
}

/// What only some drivers tell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct GpuDriver {
    /// Version of the driver.
    pub driver_version: String,
    /// What CUDA programs are compiled for: `8.6`.
    pub compute_cap: String,
}

/// `POST /v1/hardware/activate`: the graphics processors that models may use, all others not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ActivateRequest {
    /// Their numbers, as `GET /v1/hardware` gives them, or texts that are such; none switches all off.
    pub gpus: Option<Vec<Value>>,
}

impl ActivateRequest {
    /// A number that was given; nothing when it is none.
    pub fn index(given: &Value) -> Option<usize> {
        match given {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_u64().and_then(|number| usize::try_from(number).ok()),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Activated {
    /// For a person.
    pub message: String,
    /// Those that models may use now.
    pub activated_gpus: Vec<usize>,
}

/// Power.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PowerFacts {
    /// Percent that are left; 0 without a battery.
    pub battery_life: u8,
    /// `Charging`, `Discharging`, `Full`, `Not charging`; empty without a battery.
    pub charging_status: String,
    /// The machine saves power at the cost of speed.
    pub is_power_saving: bool,
}
