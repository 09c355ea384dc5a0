//! What steps used of the machine, as provenance tells it (`capture-usage`): one sample per step, at its end.

use cooper_sandbox::ResourceUsage;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The sample of a step that has ended; `None` where the kernel tells nothing.
pub fn sample(usage: &ResourceUsage, at: Timestamp) -> Option<Value> {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let total = usage.cpu_user.zip(usage.cpu_system).map(|(user, system)| user + system);
    let groups = [
        (
            "cpuStat",
            [
                ("usageNanos", total.map(nanos)),
                ("userNanos", usage.cpu_user.map(nanos)),
                ("systemNanos", usage.cpu_system.map(nanos)),
            ]
            .to_vec(),
        ),
        ("memoryStat", vec![("peak", usage.memory_peak)]),
        ("ioStat", vec![("readBytes", usage.io_read), ("writeBytes", usage.io_write)]),
        ("pidsStat", vec![("current", usage.pids_peak)]),
    ];
    let mut sample = Map::new();
    for (name, values) in groups {
        let known: Map<String, Value> =
            values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))).collect();
        if !known.is_empty() {
            sample.insert(name.to_owned(), Value::Object(known));
        }
    }
    if sample.is_empty() {
        return None;
    }
    sample.insert("timestamp".to_owned(), json!(at.to_string()));
    Some(json!({ "samples": [sample] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells() {
        assert_eq!(sample(&ResourceUsage::default(), Timestamp::UNIX_EPOCH), None);
        let mut usage = ResourceUsage::default();
        usage.cpu_user = Some(Duration::from_micros(5));
        usage.cpu_system = Some(Duration::from_micros(2));
        usage.memory_peak = Some(4096);
        insta::assert_snapshot!(
            sample(&usage, Timestamp::UNIX_EPOCH).unwrap(),
            @r#"{"samples":[{"cpuStat":{"systemNanos":2000,"usageNanos":7000,"userNanos":5000},"memoryStat":{"peak":4096},"timestamp":"1970-01-01T00:00:00Z"}]}"#
        );
    }
}
