//! Which manifest an image name stood for when it was last pulled or built.

use crate::records::meta::{Meta, MetaError, Table};
use cooper_oci::Descriptor;
use cooper_source::image::{NameError, Names};
use parking_lot::RwLock;
use std::{collections::HashMap, fmt, sync::Arc};

/// The names of one root directory.
pub struct ImageNames {
    meta: Arc<Meta>,
    names: RwLock<HashMap<String, Descriptor>>,
}

impl fmt::Debug for ImageNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageNames").field("names", &self.names.read().len()).finish_non_exhaustive()
    }
}

impl ImageNames {
    /// Reads the names.
    pub fn open(meta: Arc<Meta>) -> Result<Self, MetaError> {
        let names = meta.all(Table::Images)?.into_iter().collect();
        Ok(Self { meta, names: RwLock::new(names) })
    }

    /// Forgets every name.
    pub fn forget_all(&self) {
        for (name, _) in self.names.write().drain() {
            self.meta.delete(Table::Images, &name);
        }
    }

    /// Forgets a name.
    pub fn forget(&self, name: &str) {
        if self.names.write().remove(name).is_some() {
            self.meta.delete(Table::Images, name);
        }
    }

    /// Every name, and what it stands for.
    pub fn all(&self) -> Vec<(String, Descriptor)> {
        self.names.read().iter().map(|(name, desc)| (name.clone(), desc.clone())).collect()
    }
}

impl Names for ImageNames {
    fn get(&self, name: &str) -> Result<Option<Descriptor>, NameError> {
        Ok(self.names.read().get(name).cloned())
    }

    fn set(&self, name: &str, descriptor: &Descriptor) -> Result<(), NameError> {
        let known = self.names.write().insert(name.to_owned(), descriptor.clone());
        if known.as_ref() != Some(descriptor) {
            self.meta.put(Table::Images, name, descriptor);
        }
        Ok(())
    }
}
