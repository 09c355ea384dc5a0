//! `LABEL`: metadata of the image.

use super::{Error, StageRun};
use crate::instruction::Label;
use crate::lower::findings::FindingKind;
use std::fmt::Write as _;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, label: &Label) -> Result<(), Error> {
    let mut history = String::from("LABEL");
    for pair in &label.pairs {
        if pair.legacy {
            run.find(FindingKind::LegacyKeyValueFormat { instruction: "LABEL" });
        }
        let (key, value) = (run.expand(&pair.key.text)?, run.expand(&pair.value.text)?);
        let _ = write!(history, " {key}={value}");
        run.state.image.config.labels.insert(key, value);
    }
    run.commit(history, false, false);
    Ok(())
}
