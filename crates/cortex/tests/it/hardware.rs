//! What the daemon tells of the machine, also when drivers lie, fail or hang: real daemon, a library of ours in place of NVIDIA's.

use crate::http::{get, post};
use cortex_test::daemon::{Options, TestDaemon};
use serde_json::{Value, json};
use std::{path::Path, process::Command};

/// The calls that are made, with the shapes of NVIDIA's header. `COUNT` cards; each call of the driver fails with `FAILS`.
const NVML: &str = r#"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
typedef struct { char legacy[16]; unsigned domain, bus, device, id, sub; char bus_id[32]; } pci_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } rates_t;
int nvmlInit_v2(void) { if (HANGS) for (;;) pause(); return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = COUNT; return FAILS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return FAILS; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "550.54"); return FAILS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12040; return FAILS; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) { snprintf(text, size, "NVIDIA Test %ld", (long)device - 1); return FAILS; }
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) { snprintf(text, size, "GPU-%ld", (long)device - 1); return FAILS; }
int nvmlDeviceGetPciInfo_v3(void *device, pci_t *pci) { memset(pci, 0, sizeof *pci); snprintf(pci->bus_id, 32, "00000000:%02lX:00.0", (long)device); return FAILS; }
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) { *major = 8; *minor = 6; return FAILS; }
int nvmlDeviceGetMemoryInfo_v2(void *device, memory_t *memory) { memory->total = 24ull << 30; memory->free = memory->total - ((unsigned long long)(long)device << 30); return FAILS; }
int nvmlDeviceGetUtilizationRates(void *device, rates_t *rates) { rates->gpu = 7; rates->memory = 3; return 3; }
"#;

/// A daemon that finds a driver with these properties.
fn with_driver(folder: &Path, defines: &[&str]) -> TestDaemon {
    let source = folder.join("nvml.c");
    fs_err::write(&source, NVML).unwrap();
    let usual = ["-DCOUNT=8", "-DFAILS=0", "-DINIT=0", "-DHANGS=0"];
    let name = |define: &str| define.split('=').next().map(str::to_owned);
    let defines = usual
        .iter()
        .filter(|usual| !defines.iter().any(|define| name(define) == name(usual)))
        .chain(defines)
        .copied()
        .collect::<Vec<_>>();
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-w"])
        .args(defines)
        .arg("-o")
        .arg(folder.join("libnvidia-ml.so.1"))
        .arg(&source);
    assert!(compiler.status().expect("a C compiler").success());
    let environment = vec![("LD_LIBRARY_PATH".to_owned(), folder.as_os_str().to_owned())];
    TestDaemon::with(Options { environment, ..Options::default() })
}

async fn hardware(daemon: &TestDaemon) -> Value {
    let (status, answer) = get(daemon, "/v1/hardware").await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// What is told once the drivers have answered.
async fn settled(daemon: &TestDaemon) -> Value {
    loop {
        let answer = hardware(daemon).await;
        if answer["gpus_pending"] == false {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_machine_is_told_in_the_fields_that_clients_read() {
    let daemon = TestDaemon::start();
    let first = hardware(&daemon).await;
    assert_eq!(first["cpu"]["usage"], 0.0, "nothing was measured yet, and clients compute with it");
    let machine = settled(&daemon).await;
    for (path, check) in [
        ("/cpu/arch", Value::is_string as fn(&Value) -> bool),
        ("/cpu/cores", |it| it.as_u64() > Some(0)),
        ("/cpu/model", Value::is_string),
        ("/cpu/instructions", |it| !it.as_array().unwrap().is_empty()),
        ("/cpu/physical_cores", |it| it.as_u64() > Some(0)),
        ("/os/name", |it| !it.as_str().unwrap().is_empty()),
        ("/os/version", Value::is_string),
        ("/ram/total", |it| it.as_u64() > Some(256)),
        ("/ram/available", |it| it.as_u64() > Some(0)),
        ("/ram/type", Value::is_string),
        ("/storage/total", |it| it.as_u64() > Some(0)),
        ("/storage/available", Value::is_u64),
        ("/power/battery_life", Value::is_u64),
        ("/power/charging_status", Value::is_string),
        ("/power/is_power_saving", Value::is_boolean),
        ("/gpus", Value::is_array),
    ] {
        assert!(machine.pointer(path).is_some_and(check), "{path} in {machine}");
    }
    // As the oldest clients call it, and in any case of letters.
    for path in ["/hardware/hardware", "/Hardware/Hardware", "/v1/Hardware"] {
        assert_eq!(get(&daemon, path).await.1["os"], machine["os"], "{path}");
    }
    let text = String::from_utf8(daemon.cli(&["hardware", "list"]).output().unwrap().stdout).unwrap();
    for word in ["CPU Information:", "RAM Information:", "GPU Information:", "Power Information:", "Total (MiB)"] {
        assert!(text.contains(word), "{text}");
    }
    let only = String::from_utf8(daemon.cli(&["hardware", "list", "--os"]).output().unwrap().stdout).unwrap();
    assert!(only.starts_with("OS Information:") && !only.contains("CPU"), "{only}");
}

#[tokio::test]
async fn eight_cards_are_told_with_their_driver() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = with_driver(folder.path(), &[]);
    let machine = settled(&daemon).await;
    let gpus = machine["gpus"].as_array().unwrap();
    assert_eq!(gpus.len(), 8, "{machine}");
    assert_eq!(
        gpus[2],
        json!({"id": "2", "name": "NVIDIA Test 2", "version": "12.4", "vendor": "NVIDIA", "uuid": "GPU-2",
            "additional_information": {"driver_version": "550.54", "compute_cap": "8.6"},
            "total_vram": 24 * 1024, "free_vram": 21 * 1024, "activated": false, "usage": null,
            "device": null, "problem": "no compute module for graphics processors is installed"})
    );
    // As Jan switches them. Without a module for them they stay unused, and the answer says so.
    let (status, answer) = post(&daemon, "/v1/hardware/activate", &json!({"gpus": [0, 1]})).await;
    assert_eq!((status, &answer["activated_gpus"]), (200, &json!([])), "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(message.starts_with("The hardware configuration has been activated."), "{answer}");
    assert!(message.contains("NVIDIA Test 1: no compute module for graphics processors is installed"), "{answer}");
    let doctor = String::from_utf8(daemon.cli(&["doctor"]).output().unwrap().stdout).unwrap();
    assert!(doctor.contains("NVIDIA Test 2: not used: "), "{doctor}");
}

#[tokio::test]
async fn a_driver_that_fails_is_told_and_fails_nobody() {
    for (defines, gpus, problem) in [
        (&["-DINIT=9"][..], 0, "the NVIDIA driver cannot be asked: "),
        (&["-DFAILS=999"][..], 0, "the NVIDIA driver cannot be asked: "),
        (&["-DCOUNT=0"][..], 0, ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let daemon = with_driver(folder.path(), defines);
        let machine = settled(&daemon).await;
        assert_eq!(machine["gpus"].as_array().unwrap().len(), gpus, "{defines:?}: {machine}");
        let problems = machine["gpu_problems"].as_array().unwrap();
        assert_eq!(problems.is_empty(), problem.is_empty(), "{defines:?}: {machine}");
        assert!(problems.iter().all(|it| it.as_str().unwrap().starts_with(problem)), "{defines:?}: {machine}");
    }
}

#[tokio::test]
async fn a_driver_that_hangs_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = with_driver(folder.path(), &["-DHANGS=1"]);
    for _ in 0..3 {
        let machine = hardware(&daemon).await;
        assert_eq!((&machine["gpus_pending"], &machine["gpus"]), (&json!(true), &json!([])), "{machine}");
    }
    let stop = crate::http::client().delete(daemon.url("/processManager/destroy")).send().await.unwrap();
    assert_eq!(stop.status().as_u16(), 200);
    assert_eq!(daemon.wait(), Some(0));
}
