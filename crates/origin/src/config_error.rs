//! [`ConfigError`]: why an origin can't be set up.

/// Why an origin could not be set up: which setting is wrong, and what to do about it. It holds no secret: a URL or a
/// header's value is never repeated in it.
///
/// # Examples
///
/// ```
/// use larder_origin::{HttpConfig, HttpOrigin};
///
/// let error = HttpOrigin::new(HttpConfig::new("http://127.0.0.1:9000/users/")).unwrap_err();
/// assert_eq!(error.setting(), "url");
/// assert_eq!(error.to_string(), "url: has no {key}, so that every key would get the same value");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{setting}: {message}")]
pub struct ConfigError {
    setting: &'static str,
    message: Box<str>,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, message: impl Into<Box<str>>) -> Self {
        Self { setting, message: message.into() }
    }

    /// The name of the setting, as the configuration file has it.
    #[must_use]
    pub const fn setting(&self) -> &'static str {
        self.setting
    }

    /// What is wrong with it, and what to do.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}
