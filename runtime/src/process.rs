//! What the process itself costs, as Prometheus metrics under their customary names. CPU time has microsecond
//! resolution here: the client library's own collector counts whole seconds, too coarse for a cost per packet.

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Registry};

/// Adds `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_threads`, `process_open_fds` and
/// `process_start_time_seconds` to `registry`.
///
/// # Errors
/// When metrics of these names are registered already.
pub fn register(registry: &Registry) -> prometheus::Result<()> {
    registry.register(Box::new(Process::new()?))
}

/// Lets this process open as many files as it may: shells start programs with 1,024, which is as many connections as one
/// stranger can open.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::debug!(%error, "limit of open files not raised");
    }
}

struct Process {
    cpu: Counter,
    resident: Gauge,
    threads: Gauge,
    open_fds: Gauge,
    start_time: Gauge,
}

impl Process {
    fn new() -> prometheus::Result<Self> {
        let start_time = Gauge::new(
            "process_start_time_seconds",
            "When the process registered its metrics, in seconds since the Unix epoch.",
        )?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        start_time.set(now.unwrap_or_default().as_secs_f64());
        Ok(Self {
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "User and system CPU time spent.",
            )?,
            resident: Gauge::new("process_resident_memory_bytes", "Resident memory size.")?,
            threads: Gauge::new("process_threads", "Number of threads.")?,
            open_fds: Gauge::new("process_open_fds", "Number of open file descriptors.")?,
            start_time,
        })
    }

    fn update(&self) {
        let cpu = cpu_seconds();
        // A counter cannot be set; two scrapes at once at most add a difference twice, which the next one cannot undo, so
        // only what is missing is added.
        let missing = cpu - self.cpu.get();
        if missing > 0.0 {
            self.cpu.inc_by(missing);
        }
        if let Some(bytes) = resident_bytes() {
            self.resident.set(bytes);
        }
        if let Some(threads) = entries("/proc/self/task") {
            self.threads.set(threads);
        }
        if let Some(fds) = entries("/proc/self/fd") {
            self.open_fds.set(fds);
        }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [
            &self.resident,
            &self.threads,
            &self.open_fds,
            &self.start_time,
        ];
        self.cpu
            .desc()
            .into_iter()
            .chain(gauges.into_iter().flat_map(Collector::desc))
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.update();
        let gauges = [
            &self.resident,
            &self.threads,
            &self.open_fds,
            &self.start_time,
        ];
        let gauges = gauges.into_iter().flat_map(Collector::collect);
        self.cpu.collect().into_iter().chain(gauges).collect()
    }
}

/// User and system CPU time of this process in seconds, with microsecond resolution.
pub fn cpu_seconds() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return 0.0;
    };
    let seconds = |time: nix::sys::time::TimeVal| {
        std::time::Duration::new(u64::try_from(time.tv_sec()).unwrap_or(0), 0).as_secs_f64()
            + f64::from(i32::try_from(time.tv_usec()).unwrap_or(0)) / 1e6
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Resident memory of this process in bytes; `None` where `/proc` is missing.
pub fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = kib.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

fn entries(directory: &str) -> Option<f64> {
    let count = std::fs::read_dir(directory).ok()?.count();
    u32::try_from(count).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(registry: &Registry, name: &str) -> f64 {
        let families = registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .unwrap();
        let metric = family.get_metric().first().unwrap();
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }

    #[test]
    fn figures_are_plausible_and_fine_grained() {
        let registry = Registry::new();
        register(&registry).unwrap();
        let before = value(&registry, "process_cpu_seconds_total");
        let mut sum = 0_u64;
        while cpu_seconds() < before + 0.02 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        let spent = value(&registry, "process_cpu_seconds_total") - before;
        assert!((0.02..1.0).contains(&spent), "{spent}");
        assert!(value(&registry, "process_resident_memory_bytes") > 1e6);
        assert!(value(&registry, "process_threads") >= 1.0);
        assert!(value(&registry, "process_open_fds") >= 3.0);
        assert!(register(&registry).is_err(), "registered twice");
    }
}
