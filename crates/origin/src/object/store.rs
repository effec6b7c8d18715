//! Writes: PUT and DELETE of the key's object, compared by version where the store can.

use futures_util::future::BoxFuture;
use larder_core::{Change, Store, Update, UpdateError, Version};
use object_store::{
    Attribute, Attributes, Error, GetOptions, ObjectStoreExt, PutMode, PutOptions, UpdateVersion,
    client::{HttpError, HttpErrorKind},
    path::Path,
};

use super::{ObjectOrigin, find, io_kind, is_header, is_no_files, reason, wire::Answered};

/// The metadata that an object's version stands in. Microsoft's store takes letters only, and S3 none but small ones.
const VERSION: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("larderversion"));

/// How often a put is tried whose object was changed between the look and the put. One key is written by one node as a rule.
const RACES_MAX: usize = 4;

/// What is there of an object.
struct Held {
    /// What it was put under, if Larder put it.
    version: Option<Version>,
    update: UpdateVersion,
}

impl Store for ObjectOrigin {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(async move {
            let content_type = match &update.change {
                Change::Put(value) => value.content_type(),
                Change::Delete => None,
            };
            let name = match self.name_of(&update.key) {
                Some(name) => name,
                None if update.change == Change::Delete => return Ok(()),
                None => return Err(UpdateError::refused("no object can have the key as its name")),
            };
            if !content_type.is_none_or(is_header) {
                return Err(UpdateError::refused("no object can have the value's content type"));
            }
            match self.compares {
                true => self.compare_and_write(&name, &update).await,
                false => self.write(&name, &update, PutMode::Overwrite).await.map_err(|error| outcome(&error)),
            }
        })
    }
}

impl ObjectOrigin {
    async fn compare_and_write(&self, name: &Path, update: &Update) -> Result<(), UpdateError> {
        for _ in 0..RACES_MAX {
            // Nothing is changed by looking, whatever comes of it.
            let held = self.look(name).await.map_err(|error| match outcome(&error) {
                UpdateError::Unknown(cause) => UpdateError::Unreached(cause),
                other => other,
            })?;
            let mode = match held {
                Some(Held { version: Some(version), .. }) if version > update.version => {
                    return Err(UpdateError::Conflict);
                }
                Some(held) => PutMode::Update(held.update),
                None => PutMode::Create,
            };
            match self.write(name, update, mode).await {
                Ok(()) => return Ok(()),
                // Another change came in between: it may be a later one.
                Err(Error::Precondition { .. } | Error::AlreadyExists { .. } | Error::NotModified { .. }) => {}
                Err(error) => return Err(outcome(&error)),
            }
        }
        Err(UpdateError::unreached(
            "the object was changed again and again while it was to be written: see who else writes it",
        ))
    }

    async fn look(&self, name: &Path) -> object_store::Result<Option<Held>> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.store.get_opts(name, options).await {
            Ok(found) => {
                let version = found.attributes.get(&VERSION).and_then(|version| version.parse().ok());
                let update = UpdateVersion { e_tag: found.meta.e_tag, version: found.meta.version };
                Ok(Some(Held { version, update }))
            }
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, name: &Path, update: &Update, mode: PutMode) -> object_store::Result<()> {
        match &update.change {
            Change::Put(value) => {
                let mut attributes = Attributes::new();
                if self.compares {
                    attributes.insert(VERSION, update.version.to_string().into());
                }
                // Files have none.
                if let Some(content_type) = value.content_type().filter(|_| self.folder.is_none()) {
                    attributes.insert(Attribute::ContentType, content_type.to_owned().into());
                }
                let options = PutOptions { mode, attributes, ..PutOptions::default() };
                self.store.put_opts(name, value.clone().into_bytes().into(), options).await.map(drop)
            }
            Change::Delete => match self.store.delete(name).await {
                Err(Error::NotFound { .. }) => Ok(()),
                Err(error) if io_kind(&error).is_some_and(is_no_files) => Ok(()),
                deleted => deleted,
            },
        }
    }
}

/// What an error says of a change.
fn outcome(error: &Error) -> UpdateError {
    let told = reason(error);
    let refused = || UpdateError::refused(format_args!("the object store refused the change ({told}): see its log"));
    let unreached =
        || UpdateError::unreached(format_args!("the object store did not take the change ({told}): see its log"));
    let unknown = || {
        UpdateError::unknown(format_args!("the object store did not say what became of a change ({told}): see its log"))
    };
    match error {
        // Nothing that the change could be blamed for.
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::NotFound { .. } => unreached(),
        Error::InvalidPath { .. } | Error::NotSupported { .. } | Error::NotImplemented { .. } => refused(),
        _ => match find::<Answered>(error) {
            Some(Answered { is_refusal: true, .. }) => refused(),
            // As stores say that know no conditions. They are all that a change needs beyond what every store has.
            Some(Answered { status: http::StatusCode::NOT_IMPLEMENTED, .. }) => UpdateError::unreached(format_args!(
                "the object store did not take the change ({told}): if it knows no If-Match, set aws_conditional_put to disabled in options"
            )),
            // The server gave up waiting for the request, of which it may have had all.
            Some(Answered { status: http::StatusCode::REQUEST_TIMEOUT, .. }) => unknown(),
            Some(Answered { status, .. }) if status.is_client_error() => unreached(),
            Some(_) => unknown(),
            None if find::<HttpError>(error).is_some_and(|error| error.kind() == HttpErrorKind::Connect) => unreached(),
            None if io_kind(error).is_some_and(is_no_files) => refused(),
            None => unknown(),
        },
    }
}
