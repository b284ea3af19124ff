//! What is mounted into a container: requests in docker's several forms become records.
//!
//! Spec: Docker Engine API, `HostConfig.Binds`, `Mounts`, `Tmpfs`, `VolumesFrom`, `Config.Volumes`.

use std::collections::HashSet;
use std::path::{Component, Path};

use bollard_stubs::models::{ContainerCreateBody, HostConfig, Mount, MountType, VolumeCreateRequest};

use super::record::MountRecord;
use crate::volumes::is_name;
use crate::{Engine, EngineError};

impl Engine {
    /// All that is mounted into a container that is to be made. Volumes that are not there yet are.
    pub(super) async fn resolve_mounts(
        &self,
        body: &ContainerCreateBody,
        host: &HostConfig,
        image_volumes: &[String],
    ) -> Result<Vec<MountRecord>, EngineError> {
        let mut all: Vec<MountRecord> = Vec::new();
        for text in host.volumes_from.iter().flatten() {
            all.extend(self.mounts_from(text)?);
        }
        let mut own = Vec::new();
        for text in host.binds.iter().flatten() {
            own.push(self.bind(text).await?);
        }
        for mount in host.mounts.iter().flatten() {
            own.push(self.mount(mount).await?);
        }
        for (target, options) in host.tmpfs.iter().flatten() {
            own.push(tmpfs(target, options)?);
        }
        let mut seen = HashSet::new();
        if let Some(twice) = own.iter().find(|mount| !seen.insert(mount.target.clone())) {
            return Err(EngineError::invalid(format!("Duplicate mount point: {}", twice.target)));
        }
        all.retain(|mount| !seen.contains(&mount.target));
        all.extend(own);
        let wanted = body.volumes.iter().flatten().chain(image_volumes);
        for target in wanted {
            let target = clean(target)?;
            if !all.iter().any(|mount| mount.target == target) {
                all.push(self.anonymous(target).await?);
            }
        }
        Ok(all)
    }

    /// `CONTAINER[:ro|rw]`: what another container has.
    fn mounts_from(&self, text: &str) -> Result<Vec<MountRecord>, EngineError> {
        let (name, mode) = text.split_once(':').unwrap_or((text, ""));
        if !matches!(mode, "" | "ro" | "rw" | "z" | "Z") {
            return Err(EngineError::invalid(format!("invalid mode: {mode}")));
        }
        let other = self.shared().containers.find(name)?;
        let mut mounts = other.record().mounts.clone();
        mounts.retain(|mount| matches!(mount.kind.as_str(), "volume" | "bind"));
        for mount in &mut mounts {
            mount.writable &= mode != "ro";
            mount.anonymous = false;
            mode.clone_into(&mut mount.mode);
        }
        Ok(mounts)
    }

    /// `SOURCE:TARGET[:OPTIONS]` or `TARGET`.
    async fn bind(&self, text: &str) -> Result<MountRecord, EngineError> {
        let bad = |why: &str| EngineError::invalid(format!("invalid volume specification: '{text}'{why}"));
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, mode) = match parts[..] {
            [target] => return self.anonymous(clean(target)?).await,
            [source, target] => (source, target, ""),
            [source, target, mode] => (source, target, mode),
            _ => return Err(bad("")),
        };
        if !target.starts_with('/') {
            return Err(bad(&format!(
                ": invalid mount config for type \"bind\": invalid mount path: '{target}' mount path must be absolute"
            )));
        }
        if source.is_empty() {
            return Err(bad(": empty section between colons"));
        }
        let mut record = MountRecord {
            target: clean(target)?,
            mode: mode.to_owned(),
            writable: true,
            ..MountRecord::default()
        };
        if record.target == "/" {
            return Err(bad(": invalid specification: destination can't be '/'"));
        }
        let mut copy = true;
        for word in mode.split(',').filter(|word| !word.is_empty()) {
            match word {
                "ro" => record.writable = false,
                "rw" | "z" | "Z" | "cached" | "consistent" | "delegated" | "noexec" => {}
                "nocopy" => copy = false,
                "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" => {
                    word.clone_into(&mut record.propagation);
                }
                _ => return Err(EngineError::invalid(format!("invalid mode: {mode}"))),
            }
        }
        if source.starts_with('/') {
            make_source(source)?;
            record.kind = "bind".to_owned();
            record.source = clean(source)?;
            if record.propagation.is_empty() {
                record.propagation = "rprivate".to_owned();
            }
            return Ok(record);
        }
        if !is_name(source) {
            return Err(EngineError::invalid(format!(
                "create {source}: \"{source}\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
        record.mode = if mode.is_empty() { "z".to_owned() } else { mode.to_owned() };
        record.copy_up = copy;
        self.with_volume(
            record,
            VolumeCreateRequest { name: Some(source.to_owned()), ..VolumeCreateRequest::default() },
        )
        .await
    }

    async fn anonymous(&self, target: String) -> Result<MountRecord, EngineError> {
        let record =
            MountRecord { target, writable: true, anonymous: true, copy_up: true, ..MountRecord::default() };
        self.with_volume(record, VolumeCreateRequest::default()).await
    }

    async fn with_volume(
        &self,
        record: MountRecord,
        request: VolumeCreateRequest,
    ) -> Result<MountRecord, EngineError> {
        let volume = self.create_volume(request).await?;
        Ok(MountRecord {
            kind: "volume".to_owned(),
            name: Some(volume.name),
            source: volume.mountpoint,
            driver: Some(volume.driver),
            ..record
        })
    }

    /// `--mount`.
    async fn mount(&self, mount: &Mount) -> Result<MountRecord, EngineError> {
        let kind = mount.typ.map(|typ| typ.to_string()).unwrap_or_default();
        let bad =
            |why: &str| EngineError::invalid(format!("invalid mount config for type \"{kind}\": {why}"));
        let target = mount
            .target
            .clone()
            .filter(|target| !target.is_empty())
            .ok_or_else(|| bad("field Target must not be empty"))?;
        if !target.starts_with('/') {
            return Err(bad(&format!("invalid mount path: '{target}' mount path must be absolute")));
        }
        check_options(mount, &kind)?;
        let source = mount.source.clone().unwrap_or_default();
        let record = MountRecord {
            kind: kind.clone(),
            target: clean(&target)?,
            writable: mount.read_only != Some(true),
            asked: Some(mount.clone()),
            ..MountRecord::default()
        };
        match mount.typ {
            Some(MountType::BIND) => {
                let binding = mount.bind_options.clone().unwrap_or_default();
                if !source.starts_with('/') {
                    return Err(bad(&if source.is_empty() {
                        "field Source must not be empty".to_owned()
                    } else {
                        format!("invalid mount path: '{source}' mount path must be absolute")
                    }));
                }
                if binding.create_mountpoint == Some(true) {
                    make_source(&source)?;
                } else if !Path::new(&source).exists() {
                    return Err(bad(&format!("bind source path does not exist: {source}")));
                }
                let propagation =
                    binding.propagation.map(|one| one.to_string()).filter(|text| !text.is_empty());
                Ok(MountRecord {
                    source: clean(&source)?,
                    propagation: propagation.unwrap_or_else(|| "rprivate".to_owned()),
                    ..record
                })
            }
            Some(MountType::VOLUME) => {
                let options = mount.volume_options.clone().unwrap_or_default();
                let driver = options.driver_config.unwrap_or_default();
                let request = VolumeCreateRequest {
                    name: (!source.is_empty()).then(|| source.clone()),
                    driver: driver.name,
                    driver_opts: driver.options,
                    labels: options.labels,
                    ..VolumeCreateRequest::default()
                };
                let record = MountRecord {
                    anonymous: source.is_empty(),
                    copy_up: options.no_copy != Some(true) && options.subpath.is_none(),
                    mode: "z".to_owned(),
                    ..record
                };
                self.with_volume(record, request).await
            }
            Some(MountType::TMPFS) => {
                if !source.is_empty() {
                    return Err(bad("field Source must not be specified"));
                }
                let options = mount.tmpfs_options.clone().unwrap_or_default();
                let mut words = Vec::new();
                if let Some(size) = options.size_bytes.filter(|size| *size > 0) {
                    words.push(format!("size={size}"));
                }
                if let Some(mode) = options.mode.filter(|mode| *mode > 0) {
                    words.push(format!("mode={mode:o}"));
                }
                words.extend(options.options.iter().flatten().map(|option| option.join("=")));
                Ok(MountRecord { mode: words.join(","), ..record })
            }
            Some(MountType::IMAGE) => {
                if source.is_empty() {
                    return Err(bad("field Source must not be empty"));
                }
                let found = self.shared().store.find(&source)?;
                Ok(MountRecord { source: found.descriptor.digest.to_string(), writable: false, ..record })
            }
            _ => Err(EngineError::invalid(format!("mount type unknown: \"{kind}\""))),
        }
    }
}

/// `--tmpfs`.
fn tmpfs(target: &str, options: &str) -> Result<MountRecord, EngineError> {
    if !target.starts_with('/') {
        return Err(EngineError::invalid(format!(
            "invalid mount config for type \"tmpfs\": invalid mount path: '{target}' mount path must be absolute"
        )));
    }
    Ok(MountRecord {
        kind: "tmpfs".to_owned(),
        target: clean(target)?,
        mode: options.to_owned(),
        writable: !options.split(',').any(|word| word == "ro"),
        ..MountRecord::default()
    })
}

/// `-v` makes what it names when it is not there.
fn make_source(path: &str) -> Result<(), EngineError> {
    if Path::new(path).exists() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(EngineError::file("make the bind source", path))
}

/// Options of another kind of mount are a mistake.
fn check_options(mount: &Mount, kind: &str) -> Result<(), EngineError> {
    for (name, given, of) in [
        ("VolumeOptions", mount.volume_options.is_some(), MountType::VOLUME),
        ("BindOptions", mount.bind_options.is_some(), MountType::BIND),
        ("TmpfsOptions", mount.tmpfs_options.is_some(), MountType::TMPFS),
    ] {
        if given && mount.typ != Some(of) {
            return Err(EngineError::invalid(format!(
                "{name} must not be specified on mount type \"{kind}\""
            )));
        }
    }
    Ok(())
}

/// A path without `.`, `..` and slashes that mean nothing.
pub(super) fn clean(path: &str) -> Result<String, EngineError> {
    let mut parts: Vec<&str> = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().unwrap_or_default()),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if path.contains('\0') {
        return Err(EngineError::invalid("a path with a zero byte"));
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::{clean, tmpfs};

    #[test]
    fn paths_are_cleaned() {
        assert_eq!(clean("/a//b/../c/.").unwrap(), "/a/c");
        assert_eq!(clean("/../..").unwrap(), "/");
    }

    #[test]
    fn a_tmpfs_has_an_absolute_place() {
        assert!(tmpfs("a", "").is_err());
        let mount = tmpfs("/a", "ro,size=1m").unwrap();
        assert!(!mount.writable && mount.mode == "ro,size=1m");
    }
}
