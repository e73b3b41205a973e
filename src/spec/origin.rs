//! The origin of an app: fingerprints of its ecosystem file, to detect when the file or the app has changed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AppSpec;

/// Fingerprints of the source file, from the time when the app was last updated from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpecOrigin {
    /// Fingerprint of the content of the file.
    #[serde(alias = "content")]
    pub file_fingerprint: Fingerprint,
    /// Fingerprint of the app spec.
    #[serde(alias = "app")]
    pub app_fingerprint: Fingerprint,
    /// Whether settings were changed by a command since then.
    #[serde(default)]
    #[serde(alias = "changed")]
    pub modified: bool,
}

/// A hash that detects changes of a text without storing it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of a text: FNV-1a, which is the same in all versions of rsm.
    pub fn of(bytes: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)))
    }
}

impl AppSpec {
    /// The fingerprint of the settings, without version, source and origin.
    pub fn fingerprint(&self) -> Fingerprint {
        let bare = Self { version: None, source: None, origin: None, ..self.clone() };
        Fingerprint::of(&serde_json::to_vec(&bare).unwrap_or_default())
    }

    /// Records the fingerprint of the file that defines the app in its current state.
    pub fn set_origin(&mut self, content: Fingerprint) {
        self.origin = Some(SpecOrigin {
            file_fingerprint: content,
            app_fingerprint: self.fingerprint(),
            modified: false,
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn modified_until_change_is_reverted() {
        let mut app = AppSpec::new("api", "/srv/api", "/srv");
        app.set_origin(Fingerprint::of(b"one"));
        let patched = |app: &AppSpec, bytes: u64| {
            app.patched(json!({ "max_memory_restart": bytes }).as_object().unwrap()).unwrap()
        };
        let changed = |app: &AppSpec| app.origin.as_ref().unwrap().modified;
        let one = patched(&app, 1);
        assert!(!changed(&app) && changed(&one));
        let back = one.patched(json!({ "max_memory_restart": null }).as_object().unwrap()).unwrap();
        assert_eq!(back, app);
    }

    #[test]
    fn fingerprints_are_stable() {
        assert_eq!(Fingerprint::of(b"").0, "cbf29ce484222325");
        assert_eq!(Fingerprint::of(b"foobar").0, "85944171f73967e8");
    }
}
