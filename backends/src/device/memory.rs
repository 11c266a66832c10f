//! What the host and a device offer: processor name, memory, buffer limits.

use burn::tensor::Device;
use sysinfo::{CGroupLimits, ProcessRefreshKind, ProcessesToUpdate, System};

/// Bytes of memory in all and free for use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInfo {
    pub total: u64,
    pub available: u64,
}

/// Memory of the host, or the share of it that a container or a service may use; `None` where the system does not tell.
pub fn host_memory() -> Option<MemoryInfo> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let host = MemoryInfo { total: system.total_memory(), available: system.available_memory() };
    Some(share(&mut system).map_or(host, |limits| host.within(&limits)))
}

/// The limits of this process's control group.
fn share(system: &mut System) -> Option<CGroupLimits> {
    let process = sysinfo::get_current_pid().ok()?;
    let only = ProcessesToUpdate::Some(&[process]);
    system.refresh_processes_specifics(only, false, ProcessRefreshKind::nothing());
    system.process(process)?.cgroup_limits()
}

impl MemoryInfo {
    /// What of it a group may use. Pages of files count as free, as they do on a host, for they can be dropped.
    fn within(self, limits: &CGroupLimits) -> Self {
        let free = limits.total_memory.saturating_sub(limits.rss);
        Self { total: self.total.min(limits.total_memory), available: self.available.min(free) }
    }
}

/// Largest resident size this process has had, in bytes; `None` where the system does not tell.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// How busy the host was over one, five and fifteen minutes, as processes that run or wait to; `None` where the system does
/// not tell.
pub fn load_average() -> Option<[f64; 3]> {
    let load = System::load_average().ok()?;
    let all = [load.one, load.five, load.fifteen];
    // Where there is no such thing all are 0, as they would be on a machine that has slept for an hour.
    all.iter().any(|value| *value > 0.0).then_some(all)
}

/// Brand string of the processor and its thread count.
pub fn cpu_name() -> String {
    let brand = brand().filter(|brand| !brand.is_empty());
    let brand = brand.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{brand}, {} threads", rayon::current_num_threads())
}

fn brand() -> Option<String> {
    let mut system = System::new().ok()?;
    system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
    system.cpus().first().map(|cpu| cpu.brand().trim().to_owned())
}

/// Largest single buffer of a GPU device in bytes.
pub(super) fn max_buffer(device: &Device) -> Option<u64> {
    match device.as_dispatch() {
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        burn::backend::DispatchDevice::Cube(cube) => {
            Some(cube.client().properties().memory.max_page_size)
        }
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

/// Gives the driver back what CubeCL keeps for later tensors and nothing lies in.
#[cfg(feature = "cuda")]
pub(super) fn give_back(device: &Device) {
    match device.as_dispatch() {
        // Who computes next is told what went wrong.
        burn::backend::DispatchDevice::Cube(cube) => {
            let _ = cube.client().memory_cleanup();
            let _ = device.sync();
        }
        #[allow(unreachable_patterns)]
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_at_most_its_share() {
        let host = MemoryInfo { total: 100, available: 60 };
        let limits =
            |total_memory, rss| CGroupLimits { total_memory, rss, free_memory: 0, free_swap: 0 };
        assert_eq!(host.within(&limits(40, 10)), MemoryInfo { total: 40, available: 30 });
        assert_eq!(host.within(&limits(90, 10)), MemoryInfo { total: 90, available: 60 });
        assert_eq!(host.within(&limits(40, 50)), MemoryInfo { total: 40, available: 0 });
    }
}
