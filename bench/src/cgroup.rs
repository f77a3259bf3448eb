//! A fixed share of a processor for a process, by quotas of the kernel's scheduler: cgroup v2
//! where its processor controller is there, else v1's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::scratch::remove_of_the_dead;

const UNIFIED: &str = "/sys/fs/cgroup";
const FIRST: &str = "/sys/fs/cgroup/cpu";

/// The kernel takes no shorter quota.
pub(crate) const QUOTA_US_MIN: u64 = 1_000;

/// The form that quotas are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The group that holds those of the nodes. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Groups {
    root: PathBuf,
    version: Version,
}

/// The group of one process. Dropping it removes it, once its process has ended.
#[derive(Debug)]
pub(crate) struct Group {
    folder: PathBuf,
    version: Version,
}

impl Groups {
    /// Makes the group of this run.
    ///
    /// # Errors
    /// Where this process may not, in words that say what is missing.
    pub(crate) fn make() -> Result<Self> {
        let name = format!("cairn-bench-{}", std::process::id());
        let missing = "fixed shares of a processor need root and a cgroup hierarchy with the \
                       processor controller that this process may write to (in a container: its \
                       own and writable one); --no-quota goes without, and then nodes share the \
                       machine, so that more of them are not expected to be faster";
        let controllers = fs::read_to_string(format!("{UNIFIED}/cgroup.controllers"));
        let has_second =
            controllers.is_ok_and(|list| list.split_whitespace().any(|it| it == "cpu"));
        let (parent, version) = if has_second {
            (UNIFIED, Version::Two)
        } else if Path::new(FIRST).join("cpu.cfs_quota_us").exists()
            || Path::new(FIRST).join("cgroup.procs").exists()
        {
            (FIRST, Version::One)
        } else {
            anyhow::bail!("{missing}");
        };
        remove_of_the_dead(Path::new(parent), "cairn-bench-", |folder| {
            let groups = fs::read_dir(folder).into_iter().flatten().flatten();
            for group in groups.filter(|it| it.path().is_dir()) {
                let _ = fs::remove_dir(group.path());
            }
            fs::remove_dir(folder).is_ok()
        });
        let root = Path::new(parent).join(name);
        let made = fs::create_dir(&root).with_context(|| format!("make {}", root.display()));
        made.context(missing)?;
        let groups = Self { root, version };
        if version == Version::Two {
            for folder in [Path::new(parent), &groups.root] {
                let file = folder.join("cgroup.subtree_control");
                fs::write(&file, "+cpu")
                    .with_context(|| format!("write {}", file.display()))
                    .context(missing)?;
            }
        }
        Ok(groups)
    }

    /// A group for one process, without a quota yet.
    pub(crate) fn group(&self, name: &str) -> Result<Group> {
        let folder = self.root.join(name);
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Group {
            folder,
            version: self.version,
        })
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        remove(&self.root);
    }
}

/// Processes that were just killed take a moment to leave.
fn remove(folder: &Path) {
    for _ in 0..100 {
        if fs::remove_dir(folder).is_ok() || !folder.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("{} could not be removed", folder.display());
}

impl Group {
    /// The file by which a process joins.
    pub(crate) fn procs(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Holds the group to so much of each period; nothing: as much as there is.
    pub(crate) fn set_quota(&self, quota: Option<Quota>) -> Result<()> {
        let write = |file: &str, text: String| {
            let path = self.folder.join(file);
            fs::write(&path, &text).with_context(|| format!("write {text} to {}", path.display()))
        };
        match (self.version, quota) {
            (Version::Two, Some(quota)) => {
                write("cpu.max", format!("{} {}", quota.quota_us, quota.period_us))
            }
            (Version::Two, None) => write("cpu.max", "max".to_owned()),
            (Version::One, Some(quota)) => {
                write("cpu.cfs_period_us", quota.period_us.to_string())?;
                write("cpu.cfs_quota_us", quota.quota_us.to_string())
            }
            (Version::One, None) => write("cpu.cfs_quota_us", "-1".to_owned()),
        }
    }

    /// How long its threads have waited for the next period.
    pub(crate) fn throttled(&self) -> Result<Duration> {
        let path = self.folder.join("cpu.stat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        throttled_of(&text).with_context(|| format!("{} has another form", path.display()))
    }
}

fn throttled_of(stat: &str) -> Option<Duration> {
    stat.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        let value: u64 = value.trim().parse().ok()?;
        match name {
            "throttled_usec" => Some(Duration::from_micros(value)),
            "throttled_time" => Some(Duration::from_nanos(value)),
            _ => None,
        }
    })
}

impl Drop for Group {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// A share of one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    quota_us: u64,
    period_us: u64,
}

impl Quota {
    /// # Errors
    /// Where the kernel would refuse it.
    pub(crate) fn new(share: f64, period_us: u64) -> Result<Self> {
        let quota_us = (share * period_us as f64).round() as u64;
        ensure!(
            quota_us >= QUOTA_US_MIN,
            "{share} of a processor is {quota_us} us of each {period_us} us, and the kernel gives \
             no less than {QUOTA_US_MIN} us: raise --share or --period-us"
        );
        Ok(Self {
            quota_us,
            period_us,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_that_the_kernel_refuses_are_refused_first() {
        let quota = Quota::new(0.1, 10_000).expect("a quota");
        assert_eq!((quota.quota_us, quota.period_us), (1_000, 10_000));
        let error = Quota::new(0.05, 10_000).expect_err("too short");
        assert!(error.to_string().contains("--share"), "{error}");
    }

    #[test]
    fn throttled_time_is_read_in_both_forms() {
        let two = "usage_usec 5\nnr_throttled 2\nthrottled_usec 1500\n";
        let one = "nr_periods 9\nnr_throttled 2\nthrottled_time 1500000\n";
        for stat in [one, two] {
            assert_eq!(throttled_of(stat), Some(Duration::from_micros(1500)));
        }
        assert_eq!(throttled_of("nr_periods 9\n"), None);
    }
}
