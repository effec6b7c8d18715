//! Programs that this machine's release of Debian lacks and an older one has: downloaded from where the machine has its
//! packages from, and unpacked for the project alone. Nothing of it gets into the system or its package lists.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Outcome, command::run_aside, workspace};

/// Where programs end up, from the root of the project.
const PROGRAMS: &str = "target/needs";

/// Where this system says which release it is.
const RELEASE_FILE: &str = "/etc/os-release";

/// Where the machine has its packages from: one file, and a folder of more.
const SOURCES: (&str, &str) = ("/etc/apt/sources.list", "/etc/apt/sources.list.d");

/// Gets the program of this package, which has the same name and needs no other, from an older release.
pub(crate) fn unpack(package: &str, release: &str) -> Outcome {
    let programs = workspace::root().join(PROGRAMS);
    let work = programs.join("older");
    let (parts, unpacked) = (work.join("sources.d"), work.join("unpacked"));
    for folder in [&work.join("lists/partial"), &parts, &unpacked] {
        fs::create_dir_all(folder)?;
    }
    let present =
        code_name(&fs::read_to_string(RELEASE_FILE)?).ok_or("This system doesn't say which release it is.")?;
    for (number, source) in source_files().iter().enumerate() {
        let kind = if source.extension().is_some_and(|kind| kind == "sources") { "sources" } else { "list" };
        let exchanged = exchange(&fs::read_to_string(source)?, &present, release);
        fs::write(parts.join(format!("{number}.{kind}")), exchanged)?;
    }
    let apt = |words: &[&str]| {
        let mut apt = Command::new("apt-get");
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        apt.arg("-q").current_dir(&work);
        apt.args(["-o", "Dir::Etc::SourceList=/dev/null", "-o", &option("Dir::Etc::SourceParts", &parts)]);
        apt.args(["-o", &option("Dir::State::Lists", &work.join("lists")), "-o", &option("Dir::Cache", &work)]);
        // An old release is not renewed any more, and who unpacks it here is who downloads it.
        apt.args(["-o", "Acquire::Check-Valid-Until=false", "-o", "APT::Sandbox::User=root"]).args(words);
        run_aside(&mut apt)
    };
    apt(&["update"])?;
    apt(&["download", package])?;
    let is_it = |name: &str| name.starts_with(&format!("{package}_")) && name.ends_with(".deb");
    let mut entries = fs::read_dir(&work)?.filter_map(Result::ok);
    let archive = entries.find(|entry| is_it(&entry.file_name().to_string_lossy()));
    let archive = archive.ok_or_else(|| format!("{package} was not downloaded."))?;
    run_aside(Command::new("dpkg-deb").arg("-x").arg(archive.path()).arg(&unpacked))?;
    fs::copy(unpacked.join("usr/bin").join(package), programs.join(package))?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

fn source_files() -> Vec<PathBuf> {
    let (file, folder) = SOURCES;
    let more = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let is_used = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "sources" || kind == "list");
    [PathBuf::from(file)].into_iter().filter(|file| file.exists()).chain(more.filter(is_used)).collect()
}

fn code_name(about: &str) -> Option<String> {
    let name = about.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(name.trim_matches('"').to_owned())
}

/// The sources of another release: those of this one's packages, without its updates and without anybody else's.
fn exchange(sources: &str, present: &str, other: &str) -> String {
    let is_present = |words: &str| words.split_whitespace().any(|word| word == present);
    let mut exchanged = String::new();
    for stanza in sources.split("\n\n") {
        let lines: Vec<&str> = stanza.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let has_it = lines.iter().any(|line| line.strip_prefix("Suites:").is_some_and(is_present));
        for line in lines {
            if line.starts_with("deb ") && is_present(line) {
                let words: Vec<&str> = line.split(' ').map(|word| if word == present { other } else { word }).collect();
                exchanged.push_str(&words.join(" "));
            } else if has_it && line.starts_with("Suites:") {
                exchanged.push_str(&format!("Suites: {other}"));
            } else if has_it {
                exchanged.push_str(line);
            } else {
                continue;
            }
            exchanged.push('\n');
        }
        exchanged.push('\n');
    }
    exchanged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_of_another_release_are_this_ones_with_its_name() {
        let stanzas = "Types: deb\n# mirrored\nURIs: http://mirror.test/debian\nSuites: new new-updates\nComponents: main\n\n\
                       Types: deb\nURIs: http://mirror.test/security\nSuites: new-security\nComponents: main\n";
        let expected = "Types: deb\nURIs: http://mirror.test/debian\nSuites: old\nComponents: main\n\n\n";
        assert_eq!(exchange(stanzas, "new", "old"), expected);
        let lines = "# deb http://a.test new main\ndeb [signed-by=/k] http://a.test/debian new main\n\
                     deb http://a.test/debian new-updates main\ndeb-src http://a.test/debian new main\n";
        assert_eq!(exchange(lines, "new", "old"), "deb [signed-by=/k] http://a.test/debian old main\n\n");
    }

    #[test]
    fn a_release_is_known_by_its_code_name() {
        assert_eq!(code_name("NAME=x\nVERSION_CODENAME=\"new\"\n").as_deref(), Some("new"));
        assert_eq!(code_name("NAME=x\n"), None);
    }
}
