//! `LABEL`: metadata of the image.

use super::{Error, StageRun};
use crate::instruction::Label;
use crate::lower::findings::FindingKind;
use std::fmt::Write as _;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, label: &Label) -> Result<(), Error> {
    let mut history = String::from("LABEL");
    let mut pairs = Vec::with_capacity(label.pairs.len());
    for pair in &label.pairs {
        pairs.push((run.expand(&pair.key.text)?, run.expand(&pair.value.text)?, pair.legacy));
    }
    for (key, value, legacy) in pairs {
        if legacy {
            run.find(FindingKind::LegacyKeyValueFormat { instruction: "LABEL" });
        }
        let _ = write!(history, " {key}={value}");
        run.state.image.config.labels.insert(key, value);
    }
    run.commit(history, false, false);
    Ok(())
}
