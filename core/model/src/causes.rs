//! An error and its causes, as people read them.

use std::error::Error;

/// An error and its causes on one line, the nearest first. A cause whose text the error before it
/// repeats at its end says nothing new and is left out.
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            let cause: &(dyn Error + 'static) = self.1.as_deref()?;
            Some(cause)
        }
    }

    #[test]
    fn every_cause_is_named_once() {
        let nest = |texts: &[&'static str]| {
            texts.iter().rev().fold(None, |cause, text| Some(Box::new(Layer(text, cause))))
        };
        for (texts, line) in [
            (&["alone"][..], "alone"),
            (&["dial", "connect", "refused"], "dial: connect: refused"),
            (&["dial: refused", "refused"], "dial: refused"),
        ] {
            assert_eq!(causes(&*nest(texts).expect("an error")), line);
        }
    }
}
