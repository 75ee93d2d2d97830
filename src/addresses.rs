//! Where a running instance listens, for the tools that work with it.

use std::path::Path;

use infra::embedded::Addresses;

use crate::config::Instance;

/// What the instance with this data folder wrote down.
///
/// # Errors
/// None is running there.
pub fn of_data_dir(data_dir: &Path) -> anyhow::Result<Addresses> {
    Ok(Addresses::read(data_dir)?)
}

/// The HTTP URL of the instance.
///
/// # Errors
/// None is named, and none is running with that data folder.
pub fn http(instance: &Instance) -> anyhow::Result<String> {
    match &instance.url {
        Some(url) => Ok(url.clone()),
        None => Ok(of_data_dir(&instance.data.data_dir)?.http),
    }
}
