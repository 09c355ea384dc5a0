//! History that fits the layers: one entry without `empty_layer` for each, all with a time.

use super::LayerBlob;
use cooper_oci::History;
use jiff::Timestamp;

/// The comment of entries that are added here; the field's tools know it.
const COMMENT: &str = "buildkit.exporter.image.v0";
const UNDESCRIBED: &str = "created by buildkit";

/// Makes `history` fit `layers`.
pub(super) fn normalize(mut history: Vec<History>, layers: &[LayerBlob]) -> Vec<History> {
    let mut counted = history.iter().filter(|h| !h.empty_layer).count();
    if counted > layers.len() {
        // A config that is wrong about its layers: entries beyond the last layer have none.
        for entry in history.iter_mut().filter(|h| !h.empty_layer).skip(layers.len()) {
            entry.empty_layer = true;
        }
        counted = layers.len();
    }
    for layer in &layers[counted..] {
        let described = if layer.description.is_empty() { UNDESCRIBED } else { &layer.description };
        history.push(History {
            created: layer.created.and_then(format),
            created_by: described.to_owned(),
            comment: COMMENT.to_owned(),
            ..History::default()
        });
    }
    let with_layer = history.iter_mut().filter(|h| !h.empty_layer);
    for (entry, layer) in with_layer.zip(layers) {
        if entry.created.is_none() {
            entry.created = layer.created.and_then(format);
        }
    }
    fill_times(&mut history);
    history
}

/// Entries without a time get that of the entry before them; those at the beginning, and all after the first
/// gap, the time of the first entry that has one behind the gap.
fn fill_times(history: &mut [History]) {
    let mut first_new = None;
    let mut gap = false;
    for entry in history.iter() {
        match &entry.created {
            Some(created) => {
                first_new = Some(created.clone());
                if gap {
                    break;
                }
            }
            None => gap = true,
        }
    }
    let mut latest = first_new;
    gap = false;
    for entry in history {
        match &entry.created {
            Some(created) if gap => latest = Some(created.clone()),
            Some(_) => {}
            None => {
                gap = true;
                entry.created.clone_from(&latest);
            }
        }
    }
}

/// Moves times after `epoch` to it, except in the entries that the base image has just the same.
pub(super) fn clamp(history: &mut [History], base: &[History], epoch: Timestamp) {
    let inherited = history.iter().zip(base).take_while(|(mine, theirs)| mine == theirs).count();
    for entry in &mut history[inherited..] {
        if entry.created.as_deref().is_none_or(|created| is_after(created, epoch)) {
            entry.created = Some(epoch.to_string());
        }
    }
}

/// Whether an RFC 3339 time is after `epoch`; what is no time is.
pub(super) fn is_after(created: &str, epoch: Timestamp) -> bool {
    created.parse::<Timestamp>().map_or(true, |t| t > epoch)
}

fn format(nanoseconds: i64) -> Option<String> {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok().map(|t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_oci::{Descriptor, DiffId, Digest};

    /// `L` entries have layers, `E` none; a digit behind is the time in seconds. Layers are made at 50, 51, …
    fn check(history: &str, layers: usize, want: &str) {
        let parse = |word: &str| History {
            created: word
                .get(1..)
                .filter(|t| !t.is_empty())
                .and_then(|t| format(t.parse::<i64>().unwrap() * 1_000_000_000)),
            empty_layer: word.starts_with('E'),
            ..History::default()
        };
        let layers: Vec<_> = (0..layers)
            .map(|i| LayerBlob {
                descriptor: Descriptor::of("", b""),
                diff_id: DiffId(Digest::of("")),
                created: Some((50 + i as i64) * 1_000_000_000),
                description: String::new(),
            })
            .collect();
        let shown: Vec<_> = normalize(history.split_whitespace().map(parse).collect(), &layers)
            .iter()
            .map(|h| {
                let kind = if h.empty_layer { "E" } else { "L" };
                let time = h.created.as_ref().map(|c| c.parse::<Timestamp>().unwrap().as_second().to_string());
                let added = if h.comment == COMMENT { "+" } else { "" };
                format!("{kind}{}{added}", time.unwrap_or_default())
            })
            .collect();
        assert_eq!(shown.join(" "), want, "{history:?} over {} layers", layers.len());
    }

    #[test]
    fn fits_the_layers() {
        check("", 0, "");
        check("", 2, "L50+ L51+");
        check("L1 E", 1, "L1 E1");
        check("L1 E L2", 2, "L1 E2 L2");
        check("E L", 1, "E50 L50");
        check("L L E", 1, "L50 E50 E50");
        check("L1 L2 L3", 1, "L1 E2 E3");
        check("L1 E5", 2, "L1 E5 L51+");
        check("E E", 0, "E E");
        check("L1 E L E", 2, "L1 E51 L51 E51");
    }
}
