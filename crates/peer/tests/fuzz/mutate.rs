//! Changes scripts by chance. It knows the kinds of fields and not what they mean, so that fields which are added to the
//! protocol are covered as well.

use bytes::Bytes;
use fastrand::Rng;
use larder_peer::grpc::limits;
use prost::Message;
use protox::prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};

use crate::{
    node::WALL_MS,
    raw::framed,
    script::{Script, Step, descriptor},
};

/// The most changes that a case has.
const CHANGES_MAX: usize = 5;

/// The most steps that a case has, so that none takes long.
const STEPS_MAX: usize = 24;

/// The most elements that a list gets beyond what the corpus has.
const ELEMENTS_MAX: usize = 64;

/// Numbers at which something changes.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    63,
    limits::FRAME_COUNT_MAX as u64,
    limits::CHUNK_LEN as u64,
    limits::CHUNK_LEN as u64 + 1,
    300_000,
    limits::PARTIAL_LEN_MAX as u64,
    limits::PARTIAL_LEN_MAX as u64 + 1,
    u32::MAX as u64,
    WALL_MS,
    WALL_MS << 16,
    (WALL_MS + 59_000) << 16,
    (WALL_MS + 61_000) << 16,
    u64::MAX,
];

/// Lengths of bytes and texts at which something changes.
const LENGTHS: [usize; 7] = [0, 1, 64, 65, 1_024, 1_025, limits::CHUNK_LEN + 1];

/// A case made of the corpus.
pub(crate) fn case(corpus: &[(String, Script)], chance: &mut Rng) -> Script {
    let mut script = corpus[chance.usize(..corpus.len())].1.clone();
    for _ in 0..chance.usize(1..=CHANGES_MAX) {
        let donor = &corpus[chance.usize(..corpus.len())].1;
        match chance.u8(..100) {
            0..60 => change_a_field(&mut script.0, &donor.0, chance),
            60..80 => change_the_steps(&mut script, donor, chance),
            80..95 => change_an_encoding(&mut script, chance),
            _ => flip_a_byte(&mut script, chance),
        }
    }
    script
}

/// A number that stands in the script, as ids that meet do more than ids that don't.
fn number(script: &DynamicMessage, chance: &mut Rng) -> u64 {
    if chance.bool() {
        return NUMBERS[chance.usize(..NUMBERS.len())];
    }
    let mut numbers = Vec::new();
    visit(&mut script.clone(), &mut |message| {
        numbers.extend(message.fields().filter_map(|(_, value)| value.as_u64()));
    });
    chance.choice(numbers).unwrap_or(1)
}

/// Every message in this one, and itself.
fn visit(message: &mut DynamicMessage, at: &mut impl FnMut(&mut DynamicMessage)) {
    at(message);
    for (_, value) in message.fields_mut() {
        match value {
            Value::Message(inner) => visit(inner, at),
            Value::List(list) => list.iter_mut().filter_map(Value::as_message_mut).for_each(|inner| visit(inner, at)),
            _ => {}
        }
    }
}

fn change_a_field(script: &mut DynamicMessage, donor: &DynamicMessage, chance: &mut Rng) {
    let number = number(script, chance);
    let mut count = 0;
    // What wraps the frames is changed elsewhere.
    let is_frames = |message: &DynamicMessage| message.descriptor().parent_file().package_name() != "larder.fuzz";
    visit(script, &mut |message| count += usize::from(is_frames(message)));
    if count == 0 {
        return;
    }
    let chosen = chance.usize(..count);
    let mut at = 0;
    visit(script, &mut |message| {
        if !is_frames(message) {
            return;
        }
        if at == chosen {
            let fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
            let set: Vec<FieldDescriptor> = message.fields().map(|(field, _)| field).collect();
            let among = if set.is_empty() || chance.u8(..4) == 0 { fields } else { set };
            if let Some(field) = chance.choice(among) {
                change(message, &field, donor, number, chance);
            }
        }
        at += 1;
    });
}

fn change(
    message: &mut DynamicMessage,
    field: &FieldDescriptor,
    donor: &DynamicMessage,
    number: u64,
    chance: &mut Rng,
) {
    if chance.u8(..8) == 0 {
        message.clear_field(field);
        return;
    }
    if !field.is_list() {
        let value = single(message.get_field(field).into_owned(), &field.kind(), number, chance);
        message.set_field(field, value);
        return;
    }
    let Value::List(list) = message.get_field_mut(field) else { return };
    let at = chance.usize(..list.len().max(1));
    match chance.u8(..6) {
        0 if !list.is_empty() => drop(list.remove(at)),
        1 if list.len() > 1 => {
            let other = chance.usize(..list.len());
            list.swap(at, other);
        }
        2 if !list.is_empty() => {
            let again = vec![list[at].clone(); chance.usize(1..ELEMENTS_MAX)];
            list.extend(again);
        }
        3 => list.extend(elsewhere(donor, field, chance)),
        4 if !list.is_empty() => {
            list[at] = single(list[at].clone(), &field.kind(), number, chance);
        }
        _ => list.insert(at, single(Value::default_value(&field.kind()), &field.kind(), number, chance)),
    }
}

/// What another script has in some message's field of this name and kind.
fn elsewhere(donor: &DynamicMessage, field: &FieldDescriptor, chance: &mut Rng) -> Vec<Value> {
    let mut found = Vec::new();
    visit(&mut donor.clone(), &mut |message| {
        if message.descriptor() == *field.parent_message()
            && let Value::List(list) = &*message.get_field(field)
        {
            found.push(list.clone());
        }
    });
    chance.choice(found).unwrap_or_default()
}

/// Another value of this kind.
fn single(value: Value, kind: &Kind, number: u64, chance: &mut Rng) -> Value {
    let len = LENGTHS[chance.usize(..LENGTHS.len())];
    match (kind, value) {
        (Kind::Uint64 | Kind::Fixed64, _) => Value::U64(number),
        (Kind::Uint32 | Kind::Fixed32, _) => Value::U32(number as u32),
        (Kind::Bool, Value::Bool(value)) => Value::Bool(!value),
        (Kind::Enum(_), _) => Value::EnumNumber([-1, 0, 1, 2, 3, 77, i32::MAX][chance.usize(..7)]),
        (Kind::String, _) => Value::String(["k", "é", "\0"][chance.usize(..3)].repeat(len)),
        (Kind::Bytes, Value::Bytes(bytes)) if chance.bool() => Value::Bytes(bytes.slice(..bytes.len() / 2)),
        (Kind::Bytes, _) => Value::Bytes(vec![b'k'; len].into()),
        (Kind::Message(message), _) => Value::Message(DynamicMessage::new(message.clone())),
        (_, value) => value,
    }
}

fn change_the_steps(script: &mut Script, donor: &Script, chance: &mut Rng) {
    let donated = donor.0.get_field_by_name("steps").unwrap().into_owned();
    let Some(Value::List(steps)) = script.0.get_field_by_name_mut("steps") else { return };
    let at = chance.usize(..steps.len().max(1));
    match chance.u8(..4) {
        0 if !steps.is_empty() => drop(steps.remove(at)),
        1 if !steps.is_empty() => {
            let other = chance.usize(..steps.len());
            steps.swap(at, other);
        }
        2 if !steps.is_empty() => {
            let again = steps[at].clone();
            steps.insert(at, again);
        }
        _ => {
            let rest = steps.split_off(at.min(steps.len()));
            steps.extend(donated.as_list().unwrap().iter().cloned());
            steps.extend(rest);
        }
    }
    steps.truncate(STEPS_MAX);
}

/// Turns a step into bytes, and changes those.
fn change_an_encoding(script: &mut Script, chance: &mut Rng) {
    let Some(step) = chance.choice(script.steps().into_iter().enumerate()) else { return };
    let mut new = DynamicMessage::new(descriptor("larder.fuzz.Step"));
    let (name, mut bytes) = match step.1 {
        Step::Frame(frame) if chance.u8(..4) > 0 => ("message", frame.encode_to_vec()),
        Step::Frame(frame) => ("raw", framed(&frame.encode_to_vec()).to_vec()),
        Step::Message(message) => ("message", message.to_vec()),
        Step::Raw(raw) => ("raw", raw.to_vec()),
    };
    for _ in 0..chance.usize(1..4) {
        // What decides how the rest is read stands at the beginning.
        let near = if chance.bool() { bytes.len().min(16) } else { bytes.len() };
        let at = chance.usize(..near.max(1));
        match chance.u8(..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), chance.u8(..)),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            _ if at < bytes.len() => bytes[at] = if chance.bool() { chance.u8(..) } else { 0xff },
            _ => {}
        }
    }
    new.set_field_by_name(name, Value::Bytes(Bytes::from(bytes)));
    if let Some(Value::List(steps)) = script.0.get_field_by_name_mut("steps") {
        steps[step.0] = Value::Message(new);
    }
}

fn flip_a_byte(script: &mut Script, chance: &mut Rng) {
    let mut flip = DynamicMessage::new(descriptor("larder.fuzz.Flip"));
    let reach = if chance.bool() { 200 } else { 20_000 };
    flip.set_field_by_name("at", Value::U64(chance.u64(..reach)));
    flip.set_field_by_name("with", Value::U32(chance.u32(1..256)));
    if let Some(Value::List(flips)) = script.0.get_field_by_name_mut("flips") {
        flips.push(Value::Message(flip));
    }
}
