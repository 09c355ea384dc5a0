//! What the whole machine was doing when a build ended: the files of `/proc` as provenance has them.

use serde_json::{Map, Value, json};

/// Ticks of the processors' times a second, which the kernel fixes for programs.
const TICKS: f64 = 100.0;

/// When a build ended, and how its machine was then.
#[derive(Debug, Clone, Default)]
pub struct End {
    /// The time.
    pub at: jiff::Timestamp,
    /// The machine, when the use of resources is told.
    pub system: Option<Value>,
}

/// A sample of the machine at a time. `read` gives the text of a file of `/proc` by its path in there; `None` without
/// the files that every Linux has.
pub fn system_sample(at: jiff::Timestamp, read: impl Fn(&str) -> Option<String>) -> Option<Value> {
    let (stat, memory) = (read("stat")?, read("meminfo")?);
    let mut sample = Map::new();
    sample.insert("timestamp".to_owned(), json!(at.to_string()));
    sample.insert("cpuStat".to_owned(), processors(&stat)?);
    let counter = |name: &str| -> u64 { numbers(&stat, name).next().map_or(0, |n| n as u64) };
    let processes = json!({
        "contextSwitches": counter("ctxt"),
        "processCreated": counter("processes"),
        "processesRunning": counter("procs_running"),
    });
    sample.insert("procStat".to_owned(), processes);
    sample.insert("memoryStat".to_owned(), kilobytes(&memory));
    for (key, file) in [("cpuPressure", "cpu"), ("memoryPressure", "memory"), ("ioPressure", "io")] {
        if let Some(text) = read(&format!("pressure/{file}")) {
            sample.insert(key.to_owned(), json!({ "some": pressure(&text, "some"), "full": pressure(&text, "full") }));
        }
    }
    Some(Value::Object(sample))
}

/// The numbers of a line that begins with `name`.
fn numbers<'a>(text: &'a str, name: &str) -> impl Iterator<Item = f64> + use<'a> {
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with([' ', ':']).then_some(rest)
    });
    line.unwrap_or_default().split(|c: char| c == ':' || c.is_whitespace()).filter_map(|word| word.parse().ok())
}

/// Seconds that all processors together spent, by kind.
fn processors(stat: &str) -> Option<Value> {
    const KINDS: [&str; 10] =
        ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guestNice"];
    let mut ticks = numbers(stat, "cpu").peekable();
    ticks.peek()?;
    let mut out = Map::new();
    for kind in KINDS {
        out.insert(kind.to_owned(), json!(ticks.next().unwrap_or_default() / TICKS));
    }
    Some(Value::Object(out))
}

/// Memory, in the kernel's kilobytes.
fn kilobytes(memory: &str) -> Value {
    const KINDS: [(&str, &str); 11] = [
        ("total", "MemTotal"),
        ("free", "MemFree"),
        ("available", "MemAvailable"),
        ("buffers", "Buffers"),
        ("cached", "Cached"),
        ("active", "Active"),
        ("inactive", "Inactive"),
        ("swap", "SwapTotal"),
        ("dirty", "Dirty"),
        ("writeback", "Writeback"),
        ("slab", "Slab"),
    ];
    let value = |name| numbers(memory, name).next().map(|n| n as u64);
    KINDS.iter().map(|(key, name)| ((*key).to_owned(), json!(value(name)))).collect::<Map<_, _>>().into()
}

/// One line of pressure information: shares of time in percent, and the total in microseconds.
fn pressure(text: &str, kind: &str) -> Option<Value> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
    let mut out = Map::new();
    for (key, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
        let value = if key == "total" { json!(value.parse::<u64>().ok()) } else { json!(value.parse::<f64>().ok()) };
        out.insert(key.to_owned(), value);
    }
    Some(Value::Object(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_a_sample() {
        let read = |file: &str| {
            let text = match file {
                "stat" => "cpu  150 0 50 1000 7 0 1 0 0 0\ncpu0 1 2\nintr 9\nctxt 77\nprocesses 5\nprocs_running 2\n",
                "meminfo" => {
                    "MemTotal:  2048 kB\nMemFree: 1024 kB\nActive: 5 kB\nActive(anon): 6 kB\nSwapTotal: 0 kB\n"
                }
                "pressure/io" => "some avg10=0.50 avg60=0.00 avg300=0.00 total=12\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let sample = system_sample(jiff::Timestamp::UNIX_EPOCH, read).unwrap();
        assert_eq!(sample["timestamp"], "1970-01-01T00:00:00Z");
        assert_eq!((&sample["cpuStat"]["user"], &sample["cpuStat"]["iowait"]), (&json!(1.5), &json!(0.07)));
        assert_eq!(sample["procStat"], json!({"contextSwitches": 77, "processCreated": 5, "processesRunning": 2}));
        let memory = &sample["memoryStat"];
        assert_eq!((&memory["total"], &memory["active"], &memory["slab"]), (&json!(2048), &json!(5), &Value::Null));
        let io = json!({"some": {"avg10": 0.5, "avg60": 0.0, "avg300": 0.0, "total": 12}, "full": null});
        assert_eq!(sample["ioPressure"], io);
        assert_eq!(sample.get("cpuPressure"), None);
        assert_eq!(system_sample(jiff::Timestamp::UNIX_EPOCH, |_| None), None);
    }
}
