//! Cron schedules as calendar events of systemd (systemd.time(7)).

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];

/// The values of `OnCalendar=` for a cron pattern in a time zone (default: that of the machine); `None` if systemd
/// cannot express it.
pub(super) fn on_calendar(pattern: &str, zone: Option<&str>) -> Option<Vec<String>> {
    let zone = zone.map(|zone| format!(" {zone}")).unwrap_or_default();
    Some(events(pattern)?.into_iter().map(|event| event + &zone).collect())
}

fn events(pattern: &str) -> Option<Vec<String>> {
    if let Some(name) = pattern.strip_prefix('@') {
        let name = name.to_ascii_lowercase();
        let known = match name.as_str() {
            "annually" => "yearly",
            "midnight" => "daily",
            "hourly" | "daily" | "weekly" | "monthly" | "yearly" => &name,
            _ => return None,
        };
        return Some(vec![known.to_owned()]);
    }
    let fields: Vec<&str> = pattern.split_whitespace().collect();
    let (second, rest) = match fields.len() {
        5 => ("0", &fields[..]),
        6 => (fields[0], &fields[1..]),
        _ => return None,
    };
    let [minute, hour, day, month, weekday] = *<&[&str; 5]>::try_from(rest).ok()?;
    let time = format!("{}:{}:{}", numbers(hour, 0)?, numbers(minute, 0)?, numbers(second, 0)?);
    let month = numbers(&month_numbers(month), 1)?;
    let days = |day: &str| Some(format!("*-{month}-{} {time}", numbers(day, 1)?));
    match (is_any(day), is_any(weekday)) {
        (_, true) => Some(vec![days(day)?]),
        (true, false) => Some(vec![format!("{} {}", weekdays(weekday)?, days("*")?)]),
        // Either is enough, as in crontab.
        (false, false) => Some(vec![days(day)?, format!("{} {}", weekdays(weekday)?, days("*")?)]),
    }
}

fn is_any(field: &str) -> bool {
    matches!(field, "*" | "?" | "*/1")
}

/// A field of numbers: `1-5/2,9` becomes `1..5/2,9`. Steps without a range start at `first`.
fn numbers(field: &str, first: u32) -> Option<String> {
    if is_any(field) {
        return Some("*".into());
    }
    let part = |part: &str| {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let range = match range.split_once('-') {
            Some((low, high)) if is_number(low) && is_number(high) => format!("{low}..{high}"),
            None if is_number(range) => range.to_owned(),
            None if range == "*" => first.to_string(),
            _ => return None,
        };
        match step {
            None => Some(range),
            Some(step) if is_number(step) => Some(format!("{range}/{step}")),
            Some(_) => None,
        }
    };
    field.split(',').map(part).collect::<Option<Vec<_>>>().map(|parts| parts.join(","))
}

/// Replaces the names of months by numbers.
fn month_numbers(field: &str) -> String {
    let upper = field.to_ascii_uppercase();
    MONTHS
        .iter()
        .zip(1..)
        .fold(upper, |text, (name, number): (_, u32)| text.replace(name, &number.to_string()))
}

/// A field of weekdays as a list of names, because steps have no equivalent.
fn weekdays(field: &str) -> Option<String> {
    let mut days = [false; 7];
    for part in field.split(',') {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let step: usize = step.parse().ok().filter(|step| *step > 0)?;
        let (low, high) = match range.split_once('-') {
            Some((low, high)) => (weekday(low)?, weekday(high)?),
            None if range == "*" => (0, 6),
            None if part.contains('/') => (weekday(range)?, 6),
            None => (weekday(range)?, weekday(range)?),
        };
        for day in (low..=high).step_by(step) {
            days[day % 7] = true;
        }
    }
    // The week of systemd starts on Monday.
    let names = [1, 2, 3, 4, 5, 6, 0].into_iter().filter(|day| days[*day]).map(|day| DAYS[day]);
    let names: Vec<&str> = names.collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// The number of a weekday: 0 to 7, where 7 is Sunday, too.
fn weekday(text: &str) -> Option<usize> {
    let by_name = DAYS.iter().position(|name| name.eq_ignore_ascii_case(text));
    by_name.or_else(|| text.parse().ok().filter(|number| *number <= 7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cron_patterns_become_calendar_events() {
        for (cron, calendar) in [
            ("0 3 * * *", &["*-*-* 3:0:0"][..]),
            ("*/5 * * * *", &["*-*-* *:0/5:0"]),
            ("30 * * * * *", &["*-*-* *:*:30"]),
            ("0 9-17/2 1,15 JAN-MAR *", &["*-1..3-1,15 9..17/2:0:0"]),
            ("0 0 * * 1-5", &["Mon,Tue,Wed,Thu,Fri *-*-* 0:0:0"]),
            ("0 0 * * 0,sat", &["Sat,Sun *-*-* 0:0:0"]),
            ("0 0 13 * fri", &["*-*-13 0:0:0", "Fri *-*-* 0:0:0"]),
            ("@daily", &["daily"]),
        ] {
            assert_eq!(on_calendar(cron, None).unwrap_or_default(), calendar, "{cron}");
        }
    }

    #[test]
    fn what_systemd_lacks_is_not_converted() {
        for cron in ["0 0 L * *", "0 0 15W * *", "0 0 * * 5#2", "0 0 13 * +FRI", "1 2 3", "@reboot"] {
            assert_eq!(on_calendar(cron, None), None, "{cron}");
        }
    }
}
