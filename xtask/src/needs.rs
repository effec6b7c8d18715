//! The real software that some tests run against: what it is, how to see that it is there, and how to get it.
//!
//! What is missing is installed where that can be done without asking. Otherwise the tests that need it are left out,
//! by name and aloud, through [`WITHOUT`]; a run that decides over a change ([`CI`]) leaves nothing out.

use std::{collections::BTreeSet, env, fmt, process::Command};

use crate::{
    Outcome,
    command::{run_aside, succeeds},
    older,
};

/// The environment variable that tells tests what they have to do without: names of [`NEEDS`], with commas. Only a
/// test that finds its need there may skip itself.
pub(crate) const WITHOUT: &str = "LARDER_WITHOUT";

/// Set to `true` by every usual CI.
const CI: &str = "CI";

pub(crate) struct Need {
    name: &'static str,
    /// A line of shell that succeeds if it is there.
    probe: &'static str,
    debian: &'static [&'static str],
    /// The release of Debian whose packages they are, where this machine's may not have them any more.
    older: Option<&'static str>,
    used_by: &'static str,
}

/// What benchmarks need.
pub(crate) const WRK: Need =
    Need { name: "wrk", probe: "command -v wrk", debian: &["wrk"], older: None, used_by: "benchmarks over HTTP" };

const GO: Need = Need {
    name: "go",
    probe: "go version && test -d /usr/share/gocode/src/github.com/golang/groupcache",
    debian: &["golang-go", "golang-github-golang-groupcache-dev"],
    older: None,
    used_by: "the tests beside real golang/groupcache peers",
};

const ETCD: Need = Need {
    name: "etcd",
    probe: "etcd --version && etcdctl version",
    debian: &["etcd-server", "etcd-client"],
    older: None,
    used_by: "the tests with real etcd servers",
};

const CONSUL: Need = Need {
    name: "consul",
    probe: "consul version || target/needs/consul version",
    debian: &["consul"],
    older: Some("bullseye"),
    used_by: "the tests with real agents of Consul",
};

const REDIS: Need = Need {
    name: "redis",
    probe: "redis-server --version && redis-cli --version",
    debian: &["redis-server"],
    older: None,
    used_by: "the tests with real Redis servers",
};

pub(crate) const POSTGRES: Need = Need {
    name: "postgres",
    probe: "ls /usr/lib/postgresql/*/bin/initdb || command -v initdb",
    debian: &["postgresql"],
    older: None,
    used_by: "the tests with a real PostgreSQL",
};

const RCLONE: Need = Need {
    name: "rclone",
    probe: "rclone version",
    debian: &["rclone"],
    older: None,
    used_by: "the tests with a real server of WebDAV",
};

/// No package brings it: root has it, mostly, but not in every container.
const MOUNT: Need = Need {
    name: "mount",
    probe: "folder=$(mktemp -d) && mount -t tmpfs larder $folder && umount $folder && rmdir $folder",
    debian: &[],
    older: None,
    used_by: "the tests with disks that are full",
};

const LOOP: Need = Need {
    name: "loop",
    probe: "test \"$(id -u)\" = 0 && losetup --find && command -v mkfs.ext4",
    debian: &["mount", "e2fsprogs"],
    older: None,
    used_by: "the tests with disks that can't be synced",
};

/// What the machine has to grant, which no installation brings: it is told where it is left out, and fails nothing.
const GRANTED: [&str; 2] = [MOUNT.name, LOOP.name];

/// What tests need.
const NEEDS: &[Need] = &[GO, ETCD, CONSUL, POSTGRES, REDIS, RCLONE, MOUNT, LOOP];

const COMPARED_GO: Need = Need { used_by: "the comparison with golang/groupcache", ..GO };

/// What is compared where nodes come and go.
pub(crate) const CHURN: &[Need] = &[COMPARED_GO];

/// What Larder's nodes are compared with.
pub(crate) const PEERS: &[Need] = &[
    COMPARED_GO,
    Need { used_by: "the comparison with Redis", ..REDIS },
    Need {
        name: "memcached",
        probe: "memcached --version",
        debian: &["memcached"],
        older: None,
        used_by: "the comparison with memcached",
    },
];

/// Who keeps the locks that are measured.
pub(crate) const LOCK_KEEPERS: &[Need] = &[
    Need { used_by: "the benchmark of locks", ..ETCD },
    Need { used_by: "the benchmark of locks", ..CONSUL },
    Need { used_by: "the benchmark of locks", ..REDIS },
];

impl Need {
    fn is_there(&self) -> bool {
        succeeds(self.probe)
    }

    /// Installs it if it is missing.
    pub(crate) fn require(&self) -> Outcome {
        if !self.is_there() && may_install() {
            install(&[self])?;
        }
        if self.is_there() {
            return Ok(());
        }
        let Self { name, used_by, .. } = self;
        Err(format!("{name} is missing, for {used_by}: install it ({}).", self.source()).into())
    }

    /// Where it is to be had.
    fn source(&self) -> String {
        match self.debian {
            [] => "no package has it: run as somebody who may".to_owned(),
            packages => format!("Debian: {}", packages.join(" ")),
        }
    }
}

/// Names of what tests have to do without.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Without(BTreeSet<String>);

impl Without {
    fn parse(list: &str) -> Self {
        Self(list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// What the caller of `cargo xtask` set.
    pub(crate) fn asked_for() -> Self {
        Self::parse(&env::var(WITHOUT).unwrap_or_default())
    }
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(String::as_str).collect::<Vec<_>>().join(","))
    }
}

/// Installs what tests need, and says in `without` what could not be had.
pub(crate) fn provide(without: &mut Without) -> Outcome {
    *without = install_missing(NEEDS);
    let verdict = verdict(without, env::var(CI).is_ok_and(|value| value == "true"));
    for need in NEEDS {
        println!("{:<8} {}", need.name, if without.0.contains(need.name) { "left out" } else { "there" });
    }
    verdict
}

/// Installs what a comparison of nodes needs, and tells on stderr what has to be left out of it.
pub(crate) fn provide_compared(needs: &'static [Need]) -> Without {
    let without = install_missing(needs);
    left_out(needs, &without).for_each(|line| eprintln!("{line} It is left out."));
    without
}

/// What there is to do without, once what could be installed is.
fn install_missing(needs: &'static [Need]) -> Without {
    let mut without = Without::asked_for();
    let missing = |without: &Without| -> Vec<&Need> {
        needs.iter().filter(|need| !without.0.contains(need.name) && !need.is_there()).collect()
    };
    let to_install: Vec<&Need> = missing(&without).into_iter().filter(|need| !need.debian.is_empty()).collect();
    if !to_install.is_empty()
        && may_install()
        && let Err(error) = install(&to_install)
    {
        eprintln!("{error}");
    }
    let missing = missing(&without);
    without.0.extend(missing.iter().map(|need| need.name.to_owned()));
    without
}

/// A sentence for each need that is left out.
fn left_out(needs: &[Need], without: &Without) -> impl Iterator<Item = String> {
    let left_out = needs.iter().filter(|need| without.0.contains(need.name));
    left_out.map(|need| format!("Without {}: {} ({}).", need.name, need.used_by, need.source()))
}

fn may_install() -> bool {
    succeeds("test \"$(id -u)\" = 0 && command -v apt-get")
}

fn install(missing: &[&Need]) -> Outcome {
    let (older, present): (Vec<&Need>, Vec<&Need>) = missing.iter().partition(|need| need.older.is_some());
    let unpacked = older.iter().flat_map(|need| need.debian.iter().zip(need.older.iter().cycle()));
    for (package, release) in unpacked {
        older::unpack(package, release)?;
    }
    if present.is_empty() {
        return Ok(());
    }
    run_aside(Command::new("apt-get").args(["-q", "update"]))?;
    run_aside(
        Command::new("apt-get")
            .args(["-qy", "install", "--no-install-recommends"])
            .args(present.iter().flat_map(|need| need.debian))
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Tells what is left out, and how to change that; fails where nothing may be.
fn verdict(without: &Without, decides: bool) -> Outcome {
    if let Some(unknown) = without.0.iter().find(|name| NEEDS.iter().all(|need| need.name != **name)) {
        let names = NEEDS.iter().map(|need| need.name).collect::<Vec<_>>().join(", ");
        return Err(format!("{WITHOUT} names `{unknown}`; it can name {names}.").into());
    }
    let installable = |name: &&String| !GRANTED.contains(&name.as_str());
    let missing = Without(without.0.iter().filter(installable).cloned().collect());
    let missing: Vec<String> = left_out(NEEDS, &missing).collect();
    if decides && !missing.is_empty() {
        return Err(format!("Under {CI}=true no test may be left out. {}", missing.join(" ")).into());
    }
    for line in left_out(NEEDS, without) {
        println!("{line} They are left out.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_names_survives_the_way_through_the_environment() {
        let without = Without::parse(" go, etcd,,");
        assert_eq!(without.to_string(), "etcd,go");
        assert_eq!(Without::parse(&without.to_string()), without);
    }

    #[test]
    fn leaving_tests_out_fails_only_where_the_run_decides() {
        let without = Without::parse("go");
        assert!(verdict(&without, false).is_ok());
        let sentence = verdict(&without, true).unwrap_err().to_string();
        assert!(sentence.contains("golang-go") && sentence.contains("groupcache peers"), "{sentence}");
        assert!(verdict(&Without::default(), true).is_ok());
        assert!(verdict(&Without::parse("mount"), true).is_ok(), "no CI can install it");
    }

    #[test]
    fn a_name_that_nothing_has_is_refused() {
        let sentence = verdict(&Without::parse("og"), false).unwrap_err().to_string();
        assert!(
            sentence.contains("`og`")
                && sentence.contains("it can name go, etcd, consul, postgres, redis, rclone, mount, loop"),
            "{sentence}"
        );
    }
}
