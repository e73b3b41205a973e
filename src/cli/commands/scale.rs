//! `scale`: changes the number of instances of an app.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::cli::app_flags::WaitFlags;
use crate::cli::completion;
use crate::cli::error::Error;
use crate::cli::operation::send_all;
use crate::cli::session::Session;
use crate::ipc::message::{Request, ScaleRequest, ScaleTo};

// Arguments of `scale`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ScaleArgs {
    /// Name of the app
    #[arg(add = ArgValueCandidates::new(completion::complete_apps))]
    name: String,
    /// Number of instances: N, +N to add, -N to remove
    #[arg(allow_hyphen_values = true, value_parser = parse_scale, value_name = "N")]
    to: ScaleTo,
    #[command(flatten)]
    wait: WaitFlags,
}

pub(crate) async fn scale(scale: ScaleArgs, session: &Session) -> Result<(), Error> {
    let ScaleArgs { name, to, wait: WaitFlags { no_wait } } = scale;
    let mut client = session.connect_for(std::slice::from_ref(&name)).await?;
    let request = Request::Scale(name.clone(), ScaleRequest { to, no_wait });
    send_all(session, &mut client, &format!("scaling {name}"), vec![request]).await.map(drop)
}

/// Parses `3`, `+3` or `-3`.
pub(crate) fn parse_scale(text: &str) -> Result<ScaleTo, String> {
    let number = |digits: &str| match digits.bytes().all(|c| c.is_ascii_digit()) {
        true => digits.parse().map_err(|_| format!("{digits:?} is not a valid number of instances")),
        false => Err("expected N, +N or -N".to_owned()),
    };
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(digits), _) => number(digits).map(ScaleTo::Add),
        (_, Some(digits)) => number(digits).map(ScaleTo::Remove),
        (None, None) => number(text).map(ScaleTo::Exactly),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_number_of_instances() {
        assert_eq!(parse_scale("3"), Ok(ScaleTo::Exactly(3)));
        assert_eq!(parse_scale("+2"), Ok(ScaleTo::Add(2)));
        assert_eq!(parse_scale("-2"), Ok(ScaleTo::Remove(2)));
        for invalid in ["", "+", "-", "x", "--1", "+-1", "1.5", "99999999999"] {
            assert!(parse_scale(invalid).is_err(), "{invalid}");
        }
    }
}
