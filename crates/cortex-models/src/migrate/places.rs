//! Where data folders of Jan and cortex.cpp lie. Source: what its versions did on each system. Pure but for [`found`].

use super::scan::read_short;
use std::path::{Path, PathBuf};

/// Names under which the app was installed.
const APPS: &[&str] = &["Jan", "Jan-beta", "Jan-nightly"];
/// Names of the data folder of cortex.cpp: below the person's own at first, and where programs keep their data since 2025.
const OF_CORTEX: &[&str] = &["cortexcpp", "cortexcpp-beta", "cortexcpp-nightly"];

/// What is known of the person's folders.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Homes {
    /// What `~` means.
    pub home: Option<PathBuf>,
    /// Where programs keep their settings: `~/.config`, `~/Library/Application Support`, `%APPDATA%`.
    pub settings: Option<PathBuf>,
    /// Where programs keep their data: `~/.local/share`.
    pub data: Option<PathBuf>,
    /// Where Ollama keeps its models, when the person has moved them.
    pub ollama: Option<PathBuf>,
    /// Where the Hugging Face programs keep theirs, when the person has moved them.
    pub hub_cache: Option<PathBuf>,
}

/// The places to look at: files that say where the data folder is, and folders where it was by default.
fn candidates(homes: &Homes) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let apps = || homes.settings.iter().flat_map(|settings| APPS.iter().map(|app| settings.join(app)));
    let pointers = apps().map(|app| app.join("settings.json")).collect();
    let of_jan = homes.home.iter().map(|home| home.join("jan")).chain(apps().map(|app| app.join("data")));
    let parents = homes.home.iter().chain(&homes.data);
    let of_cortex = parents.flat_map(|parent| OF_CORTEX.iter().map(|name| parent.join(name)));
    (pointers, of_jan.chain(of_cortex).collect())
}

/// The folder that a pointer file names.
fn pointed(text: &str) -> Option<PathBuf> {
    let json: serde_json::Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()?;
    let path = PathBuf::from(json.get("data_folder")?.as_str()?);
    path.is_absolute().then_some(path)
}

/// The data folders that are there and hold models, without `own`, each once.
pub(crate) fn found(homes: &Homes, own: &Path) -> Vec<PathBuf> {
    let (pointers, defaults) = candidates(homes);
    let named = pointers.iter().filter_map(|path| pointed(&String::from_utf8_lossy(&read_short(path).ok()?)));
    let mut folders: Vec<PathBuf> = Vec::new();
    let real = |path: &Path| fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    for folder in named.chain(defaults) {
        let known = folders.iter().map(PathBuf::as_path).chain([own]).any(|known| real(known) == real(&folder));
        if !known && folder.join("models").is_dir() {
            folders.push(folder);
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_defaults_are_found_once_and_only_where_models_are() {
        let root = tempfile::tempdir().unwrap();
        let place = |name: &str| root.path().join(name);
        let homes = Homes { home: Some(place("home")), settings: Some(place("home/.config")), ..Homes::default() };
        for folder in [
            "home/jan/models",
            "home/.config/Jan/data/models",
            "moved/models",
            "home/.config/Jan-beta/data",
            "home/cortexcpp/models",
        ] {
            fs_err::create_dir_all(place(folder)).unwrap();
        }
        let pointer = serde_json::json!({"data_folder": place("moved"), "quick_ask": false});
        fs_err::write(place("home/.config/Jan/settings.json"), pointer.to_string()).unwrap();
        let pointer = serde_json::json!({"data_folder": place("home/jan")});
        fs_err::write(place("home/.config/Jan-beta/settings.json"), pointer.to_string()).unwrap();
        assert_eq!(
            found(&homes, &place("own")),
            [place("moved"), place("home/jan"), place("home/.config/Jan/data"), place("home/cortexcpp")]
        );
        assert_eq!(
            found(&homes, &place("moved")),
            [place("home/jan"), place("home/.config/Jan/data"), place("home/cortexcpp")]
        );
        assert_eq!(found(&Homes::default(), &place("own")), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_pointer_file_that_is_none_holds_up_nobody() {
        let root = tempfile::tempdir().unwrap();
        let homes = Homes { settings: Some(root.path().to_owned()), ..Homes::default() };
        for app in ["Jan", "Jan-beta"] {
            fs_err::create_dir_all(root.path().join(app)).unwrap();
        }
        let pipe = root.path().join("Jan/settings.json");
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        std::os::unix::fs::symlink("/dev/zero", root.path().join("Jan-beta/settings.json")).unwrap();
        assert_eq!(found(&homes, Path::new("/own")), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_pointer_that_makes_no_sense_points_nowhere() {
        for text in ["", "{", "{}", "{\"data_folder\": 7}", "{\"data_folder\": \"jan\"}"] {
            assert_eq!(pointed(text), None, "{text}");
        }
        assert_eq!(pointed("\u{feff}{\"data_folder\": \"/my jan\"}"), Some("/my jan".into()));
    }
}
