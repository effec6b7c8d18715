//! [`Script`]: what one end of an exchange sends.

use std::{fs, path::Path, sync::LazyLock};

use bytes::Bytes;
use larder_peer::grpc::proto::Frame;
use prost::Message;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value};

use crate::{raw::framed, schema};

static DESCRIPTORS: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::from_file_descriptor_set(schema::compile("script.proto")).unwrap());

/// A case, as `script.proto` has it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Script(pub(crate) DynamicMessage);

/// Something that is sent.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Frame(Frame),
    Message(Bytes),
    Raw(Bytes),
}

/// Bytes of a connection that are changed: their places, and what they are combined with.
pub(crate) type Flips = Vec<(u64, u8)>;

pub(crate) fn descriptor(name: &str) -> MessageDescriptor {
    DESCRIPTORS.get_message_by_name(name).unwrap()
}

impl Script {
    /// Those in a folder of the corpus, by file name.
    pub(crate) fn corpus(folder: &str) -> Vec<(String, Self)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(folder);
        let mut scripts: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                let text = fs::read_to_string(&path).unwrap();
                let script = DynamicMessage::parse_text_format(descriptor("larder.fuzz.Script"), &text);
                (name.clone(), Self(script.unwrap_or_else(|error| panic!("{name}: {error}"))))
            })
            .collect();
        scripts.sort_by(|(one, _), (other, _)| one.cmp(other));
        scripts
    }

    /// As it would stand in the corpus.
    pub(crate) fn text(&self) -> String {
        self.0.to_text_format_with_options(&protox::prost_reflect::text_format::FormatOptions::new().pretty(true))
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        let steps = self.0.get_field_by_name("steps").unwrap();
        steps.as_list().unwrap().iter().filter_map(|step| Step::parse(step.as_message().unwrap())).collect()
    }

    pub(crate) fn flips(&self) -> Flips {
        let flips = self.0.get_field_by_name("flips").unwrap();
        let flip = |flip: &Value| {
            let flip = flip.as_message().unwrap();
            let with = flip.get_field_by_name("with").unwrap().as_u32().unwrap();
            (flip.get_field_by_name("at").unwrap().as_u64().unwrap(), with.to_le_bytes()[0])
        };
        flips.as_list().unwrap().iter().map(flip).collect()
    }

    /// Whether each message is sent as gRPC has it: only what is in them may be wrong.
    pub(crate) fn is_framed(&self) -> bool {
        self.flips().is_empty() && !self.steps().iter().any(|step| matches!(step, Step::Raw(_)))
    }

    /// Whether each message can be read: only what it says may be wrong.
    pub(crate) fn is_readable(&self) -> bool {
        self.is_framed() && !self.steps().iter().any(|step| matches!(step, Step::Message(_)))
    }
}

impl Step {
    fn parse(step: &DynamicMessage) -> Option<Self> {
        let bytes = |name| match step.get_field_by_name(name)?.into_owned() {
            Value::Bytes(bytes) if step.has_field_by_name(name) => Some(bytes),
            _ => None,
        };
        if step.has_field_by_name("frame") {
            let frame = step.get_field_by_name("frame")?;
            return Some(Self::Frame(frame.as_message()?.transcode_to().unwrap()));
        }
        bytes("message").map(Self::Message).or_else(|| bytes("raw").map(Self::Raw))
    }

    /// What is put into the stream.
    pub(crate) fn bytes(&self) -> Bytes {
        match self {
            Self::Frame(frame) => framed(&frame.encode_to_vec()),
            Self::Message(message) => framed(message),
            Self::Raw(bytes) => bytes.clone(),
        }
    }

    /// What a node that reads it finds in it; `None`: it can't be read.
    pub(crate) fn frame(&self) -> Option<Frame> {
        match self {
            Self::Frame(frame) => Some(frame.clone()),
            Self::Message(message) => Frame::decode(message.clone()).ok(),
            Self::Raw(_) => None,
        }
    }
}

/// The value of a key: its name, over and over.
pub(crate) fn value_of(key: &[u8], len: usize) -> Bytes {
    let mut value = key.repeat(len.div_ceil(key.len().max(1)));
    value.truncate(len);
    value.into()
}
