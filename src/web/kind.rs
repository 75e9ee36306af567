//! [`Kind`]: the kinds of values that a route's pattern may have, and what each matches.
//!
//! Rules kept here:
//! - A kind says yes or no to a text; nothing is converted, so nothing can be lost or overflow.
//! - The narrower of two kinds is asked first. What is narrower depends on the two alone, never on who came first.

use std::cmp::Reverse;

/// A kind of value inside of a segment.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// One of these texts.
    Any(Vec<String>),
    /// Digits; so many of them, or any number; between these two.
    Int {
        digits: Option<usize>,
        least: u64,
        most: Option<u64>,
    },
    /// Digits, a point, digits; between these two.
    Float {
        least: f64,
        most: f64,
    },
    Uuid,
    /// So many characters, at least one.
    Text {
        least: usize,
        most: Option<usize>,
    },
}

/// Kinds sort by this; two that have the same match the same texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    kind: u8,
    digits: Reverse<Option<usize>>,
    width: u64,
    least: Reverse<u64>,
    texts: Vec<String>,
}

impl Kind {
    /// Reads `int` or `int(min=1, max=5)`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, arguments) = match text.split_once('(') {
            None => (text, None),
            Some((name, rest)) => (name, Some(rest.strip_suffix(')').ok_or("a restriction has no closing `)`")?)),
        };
        if name == "any" {
            return Kind::any(arguments.unwrap_or_default());
        }
        let mut arguments = Arguments::parse(arguments)?;
        let kind = match name {
            "string" => Kind::text(&mut arguments)?,
            "int" => {
                let digits = arguments.take("fixed_digits")?;
                let (least, most) = (arguments.take("min")?.unwrap_or(0), arguments.take("max")?);
                Kind::Int { digits, least, most }
            }
            "float" => {
                let (least, most) = (arguments.take("min")?.unwrap_or(0.0), arguments.take("max")?);
                Kind::Float { least, most: most.unwrap_or(f64::INFINITY) }
            }
            "uuid" => Kind::Uuid,
            "path" => return Err("a `path` stands alone, and at the end".into()),
            other => return Err(format!("{other:?} is no kind of value; {KINDS}")),
        };
        arguments.finish(name)?;
        kind.check()
    }

    fn text(arguments: &mut Arguments<'_>) -> Result<Self, String> {
        let length: Option<usize> = arguments.take("length")?;
        let least = arguments.take("minlength")?;
        let most = arguments.take("maxlength")?;
        if length.is_some() && (least.is_some() || most.is_some()) {
            return Err("`length` says all about a length, without `minlength` and `maxlength`".into());
        }
        Ok(Kind::Text { least: length.or(least).unwrap_or(1), most: length.or(most) })
    }

    fn any(arguments: &str) -> Result<Self, String> {
        let mut texts: Vec<String> = arguments.split(',').map(|text| text.trim().to_owned()).collect();
        texts.sort();
        let is_twice = texts.windows(2).any(|pair| pair[0] == pair[1]);
        if is_twice || texts.contains(&String::new()) {
            return Err(
                "`any` is one of some texts, as in `any(old,new)`, each of them once and none of them empty".into()
            );
        }
        Ok(Kind::Any(texts))
    }

    /// A kind that matches nothing is a mistake.
    fn check(self) -> Result<Self, String> {
        let is_empty = match &self {
            Kind::Any(_) | Kind::Uuid => false,
            Kind::Int { digits, least, most } => {
                let largest = digits.map_or(u64::MAX, largest_of);
                *digits == Some(0) || *least > most.unwrap_or(u64::MAX).min(largest)
            }
            Kind::Float { least, most } => !(*least >= 0.0 && least <= most),
            Kind::Text { least, most } => *least == 0 || most.is_some_and(|most| most < *least),
        };
        if is_empty { Err("no value can be within these restrictions".into()) } else { Ok(self) }
    }

    pub(crate) fn rank(&self) -> Rank {
        let rank =
            |kind, width, least| Rank { kind, digits: Reverse(None), width, least: Reverse(least), texts: Vec::new() };
        match self {
            Kind::Any(texts) => Rank { texts: texts.clone(), ..rank(0, texts.len() as u64, 0) },
            Kind::Int { digits, least, most } => {
                Rank { digits: Reverse(*digits), ..rank(1, most.map_or(u64::MAX, |most| most - least), *least) }
            }
            // The bits of numbers without a sign are in the order of the numbers.
            Kind::Float { least, most } => rank(2, (most - least).to_bits(), least.to_bits()),
            Kind::Uuid => rank(3, 0, 0),
            Kind::Text { least, most } => rank(4, most.map_or(u64::MAX, |most| (most - least) as u64), *least as u64),
        }
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            Kind::Any(texts) => texts.iter().any(|known| known == text),
            Kind::Int { digits, least, most } => {
                is_digits(text) && digits.is_none_or(|digits| text.len() == digits) && is_between(text, *least, *most)
            }
            Kind::Float { least, most } => {
                let is_float = text.split_once('.').is_some_and(|(whole, part)| is_digits(whole) && is_digits(part));
                is_float && text.parse().is_ok_and(|number: f64| *least <= number && number <= *most)
            }
            Kind::Uuid => is_uuid(text),
            Kind::Text { least: 1, most: None } => !text.is_empty(),
            Kind::Text { least, most } => {
                let length = text.chars().count();
                *least <= length && most.is_none_or(|most| length <= most)
            }
        }
    }

    /// How long a value at the start of `text` is that ends at the first `separator` it can end at.
    pub(crate) fn length_before(&self, text: &str, separator: &str) -> Option<usize> {
        let least = match self {
            Kind::Any(texts) => {
                let ends_here =
                    |known: &&String| text.strip_prefix(known.as_str())?.strip_prefix(separator).map(|_| known.len());
                return texts.iter().filter_map(|known| ends_here(&known)).min();
            }
            Kind::Int { digits, .. } => digits.unwrap_or(1),
            Kind::Float { .. } => text.find('.')? + 2,
            Kind::Uuid => UUID_LENGTH,
            Kind::Text { least, .. } => text.char_indices().nth(least - 1).map(|(at, char)| at + char.len_utf8())?,
        };
        Some(least + text.get(least..)?.find(separator)?)
    }

    /// The value as it is written in a URL.
    pub(crate) fn written(&self, value: String) -> String {
        match self {
            Kind::Int { digits: Some(digits), .. } if is_digits(&value) => format!("{value:0>digits$}"),
            _ => value,
        }
    }
}

/// `name=value, name=value`, of which each is taken once.
struct Arguments<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Arguments<'a> {
    fn parse(text: Option<&'a str>) -> Result<Self, String> {
        let Some(text) = text else { return Ok(Arguments(Vec::new())) };
        let pair = |part: &'a str| {
            let (name, value) = part.split_once('=').ok_or(format!("{part:?} is no restriction such as `min=1`"))?;
            Ok((name.trim(), value.trim()))
        };
        text.split(',').map(pair).collect::<Result<_, String>>().map(Arguments)
    }

    fn take<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(place) = self.0.iter().position(|(known, _)| *known == name) else { return Ok(None) };
        let (_, value) = self.0.remove(place);
        value.parse().map(Some).map_err(|_| format!("`{name}={value}`: {value:?} is no number for it"))
    }

    fn finish(self, kind: &str) -> Result<(), String> {
        match self.0.first() {
            Some((name, _)) => Err(format!("{name:?} is no restriction of `{kind}`, or is there twice")),
            None => Ok(()),
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether digits, however many, say a number between these two. One that is too large for a `u64` is larger than all.
fn is_between(digits: &str, least: u64, most: Option<u64>) -> bool {
    match (least, most) {
        (0, None) => true,
        _ => digits
            .parse()
            .map_or(most.is_none(), |number: u64| least <= number && most.is_none_or(|most| number <= most)),
    }
}

/// The largest number of so many digits.
fn largest_of(digits: usize) -> u64 {
    u32::try_from(digits).ok().and_then(|digits| 10_u64.checked_pow(digits)).map_or(u64::MAX, |next| next - 1)
}

/// As RFC 9562 section 4 writes them, in letters of either case.
fn is_uuid(text: &str) -> bool {
    let fits = |(place, byte): (usize, u8)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == UUID_LENGTH && text.bytes().enumerate().all(fits)
}

const UUID_LENGTH: usize = 36;

const KINDS: &str = "there are `string`, `int`, `float`, `uuid`, `any` and `path`";
