//! Are all fields of a policy known? Looks at tags before the message is decoded.
//!
//! The decoder skips fields it does not know. In a description that is harmless; in a policy it
//! may drop a condition, and an ALLOW with a condition less admits more. The decoder also keeps
//! the last of two values, merges two messages and cuts numbers to their width. No encoder writes
//! such things, and each could be read in two ways, so here they are errors.

use proto::security as wire;

use super::invalid::{Invalid, Problem, Within};

/// What a message may hold.
struct Shape {
    fields: &'static [Field],
}

struct Field {
    number: u32,
    name: &'static str,
    times: Times,
    kind: Kind,
}

/// How often a field may be there.
#[derive(Clone, Copy)]
enum Times {
    Many,
    /// Once among the fields with the same slot: those of a `oneof` share theirs.
    Once(Slot),
}

/// A bit of a set; each shape numbers its own.
type Slot = u8;

enum Kind {
    /// A number that fits in 32 bits.
    Number,
    /// Such numbers, one by one or packed.
    Numbers,
    /// Text or bytes, left to the decoder.
    Text,
    Message(&'static Shape),
    /// Says nothing about who may pass.
    Ignored,
    /// May say something about who may pass, in terms that nobody here knows.
    Unknown,
}

const fn once(number: u32, name: &'static str, slot: Slot, kind: Kind) -> Field {
    Field { number, name, times: Times::Once(slot), kind }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, times: Times::Many, kind }
}

const NAME: u32 = 1;
const NAMESPACE: u32 = 2;
const SCOPE: u32 = 3;

static AUTHORIZATION: Shape = Shape {
    fields: &[
        once(NAME, "name", 0, Kind::Text),
        once(NAMESPACE, "namespace", 1, Kind::Text),
        once(SCOPE, "scope", 2, Kind::Number),
        once(4, "action", 3, Kind::Number),
        many(5, "rules", Kind::Message(&RULE)),
        once(6, "dry_run", 4, Kind::Number),
        many(7, "extensions", Kind::Ignored),
    ],
};

static RULE: Shape = Shape { fields: &[many(1, "clauses", Kind::Message(&CLAUSE))] };

static CLAUSE: Shape = Shape { fields: &[many(2, "matches", Kind::Message(&MATCH))] };

static MATCH: Shape = Shape {
    fields: &[
        many(1, "namespaces", Kind::Message(&STRING_MATCH)),
        many(2, "not_namespaces", Kind::Message(&STRING_MATCH)),
        many(3, "principals", Kind::Message(&STRING_MATCH)),
        many(4, "not_principals", Kind::Message(&STRING_MATCH)),
        many(5, "source_ips", Kind::Message(&ADDRESS)),
        many(6, "not_source_ips", Kind::Message(&ADDRESS)),
        many(7, "destination_ips", Kind::Message(&ADDRESS)),
        many(8, "not_destination_ips", Kind::Message(&ADDRESS)),
        many(9, "destination_ports", Kind::Numbers),
        many(10, "not_destination_ports", Kind::Numbers),
        many(11, "service_accounts", Kind::Message(&SERVICE_ACCOUNT)),
        many(12, "not_service_accounts", Kind::Message(&SERVICE_ACCOUNT)),
        many(13, "extensions", Kind::Unknown),
    ],
};

static STRING_MATCH: Shape = Shape {
    fields: &[
        once(1, "exact", 0, Kind::Text),
        once(2, "prefix", 0, Kind::Text),
        once(3, "suffix", 0, Kind::Text),
        once(4, "presence", 0, Kind::Message(&EMPTY)),
    ],
};

static ADDRESS: Shape =
    Shape { fields: &[once(1, "address", 0, Kind::Text), once(2, "length", 1, Kind::Number)] };

static SERVICE_ACCOUNT: Shape = Shape {
    fields: &[once(1, "namespace", 0, Kind::Text), once(2, "serviceAccount", 1, Kind::Text)],
};

static EMPTY: Shape = Shape { fields: &[] };

/// Whether the decoder will see everything that an `Authorization` says.
pub(super) fn authorization(bytes: &[u8]) -> Result<(), Invalid> {
    message(&AUTHORIZATION, bytes)
}

/// The depth of the recursion is that of the shapes, not of the input.
fn message(shape: &Shape, bytes: &[u8]) -> Result<(), Invalid> {
    let mut seen = 0_u8;
    let mut counts = [0_usize; 16];
    for item in (Items { rest: bytes }) {
        let (number, value) = item?;
        let known = shape.fields.iter().zip(&mut counts).find(|(field, _)| field.number == number);
        let Some((field, count)) = known else { return Err(Problem::UnknownField(number).into()) };
        let index = *count;
        *count += 1;
        if let Times::Once(slot) = field.times {
            if seen & 1 << slot != 0 {
                return Err(Problem::Twice.at(field.name));
            }
            seen |= 1 << slot;
        }
        let read = check(&field.kind, value);
        match field.times {
            Times::Many => read.item(field.name, index)?,
            Times::Once(_) => read.within(field.name)?,
        }
    }
    Ok(())
}

fn check(kind: &Kind, value: Value<'_>) -> Result<(), Invalid> {
    match (kind, value) {
        (Kind::Number | Kind::Numbers, Value::Number(number)) => narrow(number),
        (Kind::Numbers, Value::Bytes(mut packed)) => {
            while !packed.is_empty() {
                narrow(varint(&mut packed)?)?;
            }
            Ok(())
        }
        (Kind::Message(shape), Value::Bytes(bytes)) => message(shape, bytes),
        (Kind::Text | Kind::Ignored, Value::Bytes(_)) => Ok(()),
        (Kind::Unknown, _) => Err(Problem::Extension.into()),
        (
            Kind::Number | Kind::Numbers | Kind::Text | Kind::Message(_) | Kind::Ignored,
            Value::Number(_) | Value::Bytes(_) | Value::Fixed,
        ) => Err(malformed("a value of another type")),
    }
}

fn narrow(number: u64) -> Result<(), Invalid> {
    match u32::try_from(number) {
        Ok(_) => Ok(()),
        Err(_) => Err(malformed("a number of more than 32 bits")),
    }
}

fn malformed(what: &str) -> Invalid {
    Problem::Decode(what.to_owned()).into()
}

/// What an unreadable policy says about itself, as far as it can be told.
#[derive(Default)]
pub(super) struct Outline<'b> {
    pub(super) name: &'b str,
    pub(super) namespace: &'b str,
    /// `None` if it is there twice, or no known one.
    pub(super) scope: Option<wire::Scope>,
}

/// The head of an `Authorization`; `None` if even that is malformed.
pub(super) fn outline(bytes: &[u8]) -> Option<Outline<'_>> {
    let mut outline = Outline::default();
    // An absent scope is the enumeration's zero.
    let mut scopes = (0_u8, Some(0));
    for item in (Items { rest: bytes }) {
        match item.ok()? {
            (NAME, Value::Bytes(text)) => outline.name = std::str::from_utf8(text).ok()?,
            (NAMESPACE, Value::Bytes(text)) => {
                outline.namespace = std::str::from_utf8(text).ok()?;
            }
            (SCOPE, Value::Number(number)) => scopes = (scopes.0 + 1, i32::try_from(number).ok()),
            (NAME | NAMESPACE | SCOPE, _) => return None,
            _ => {}
        }
        if scopes.0 > 1 {
            scopes = (1, None);
        }
    }
    outline.scope = scopes.1.and_then(|number| wire::Scope::try_from(number).ok());
    Some(outline)
}

#[derive(Clone, Copy)]
enum Value<'b> {
    Number(u64),
    Bytes(&'b [u8]),
    /// Of four or eight bytes; no field here has that type.
    Fixed,
}

/// The fields of one message, in the order in which they come. Ends after the first error.
struct Items<'b> {
    rest: &'b [u8],
}

impl<'b> Iterator for Items<'b> {
    type Item = Result<(u32, Value<'b>), Invalid>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = field(&mut self.rest);
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

fn field<'b>(rest: &mut &'b [u8]) -> Result<(u32, Value<'b>), Invalid> {
    let tag = u32::try_from(varint(rest)?).map_err(|_| malformed("a tag of more than 32 bits"))?;
    let value = match tag & 7 {
        0 => Value::Number(varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Fixed)?,
        2 => {
            let length = varint(rest)?;
            Value::Bytes(take(rest, usize::try_from(length).unwrap_or(usize::MAX))?)
        }
        5 => take(rest, 4).map(|_| Value::Fixed)?,
        _ => return Err(malformed("a wire type that is not in use")),
    };
    match tag >> 3 {
        0 => Err(malformed("field number 0")),
        number => Ok((number, value)),
    }
}

fn take<'b>(rest: &mut &'b [u8], length: usize) -> Result<&'b [u8], Invalid> {
    let (taken, after) = rest.split_at_checked(length).ok_or_else(|| malformed("truncated"))?;
    *rest = after;
    Ok(taken)
}

/// A base-128 number of at most 64 bits.
fn varint(rest: &mut &[u8]) -> Result<u64, Invalid> {
    let mut number = 0_u64;
    for place in 0..10 {
        let (byte, after) = rest.split_first().ok_or_else(|| malformed("truncated"))?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if place == 9 && bits > 1 {
            break;
        }
        number |= bits << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(malformed("a number of more than 64 bits"))
}
