//! Programs whose graceful stop needs another signal than SIGINT.

use super::{AppSpec, Launcher};

/// The default stop signal of an app without `kill_signal`.
pub const DEFAULT_STOP_SIGNAL: &str = "SIGINT";

/// Programs that finish accepted requests or jobs on this signal, and not on SIGINT. Each name stands for a file name
/// or a Python module.
const STOP_SIGNALS: &[(&str, &str)] = &[
    ("apache2", "SIGWINCH"),
    ("apache2ctl", "SIGWINCH"),
    ("apachectl", "SIGWINCH"),
    ("celery", "SIGTERM"),
    ("gunicorn", "SIGTERM"),
    ("haproxy", "SIGUSR1"),
    ("httpd", "SIGWINCH"),
    ("mariadbd", "SIGTERM"),
    ("mysqld", "SIGTERM"),
    ("nginx", "SIGQUIT"),
    ("openresty", "SIGQUIT"),
    ("php-fpm", "SIGQUIT"),
    ("puma", "SIGTERM"),
    ("sidekiq", "SIGTERM"),
    ("unicorn", "SIGQUIT"),
];

/// Words of a command line before the program.
const PREFIXES: &[&str] =
    &["bundle", "env", "exec", "ionice", "nice", "nohup", "poetry", "run", "setsid", "stdbuf", "time", "uv"];

/// The known program that an app runs, and its stop signal.
pub fn known_program(app: &AppSpec) -> Option<(&'static str, &'static str)> {
    let line: Vec<&str> = match &app.launcher {
        // Only a single command: the signal of one program may be wrong for another.
        Launcher::Shell
            if app.script.contains(['|', ';', '&', '\n']) && !has_only_quoted_operators(&app.script) =>
        {
            return None;
        }
        Launcher::Shell => app.script.split_ascii_whitespace().collect(),
        Launcher::Direct | Launcher::Interpreter { .. } => {
            std::iter::once(app.script.as_str()).chain(app.args.iter().map(String::as_str)).collect()
        }
        Launcher::Serve => return None,
    };
    let is_prefix = |word: &str| PREFIXES.contains(&word) || word.contains('=') || word.starts_with('-');
    let mut words = line.into_iter().skip_while(|word| is_prefix(word));
    let first = file_name(words.next()?);
    let program = match first {
        name if is_python(name) => python_program(words)?,
        name => name,
    };
    STOP_SIGNALS.iter().copied().find(|(name, _)| is_named(program, name))
}

/// The module of `python -m MODULE`, or the script.
fn python_program<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    match words.find(|word| !word.starts_with('-') || *word == "-m")? {
        "-m" => words.next(),
        script => Some(file_name(script)),
    }
}

fn has_only_quoted_operators(line: &str) -> bool {
    let (mut quote, mut is_quoted) = (None, true);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '|' | ';' | '&' | '\n') => is_quoted = false,
            _ => {}
        }
    }
    is_quoted
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_python(name: &str) -> bool {
    name.strip_prefix("python").is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// Whether a file has this name, or the name with a version, such as `php-fpm8.2`.
fn is_named(file: &str, name: &str) -> bool {
    file.strip_prefix(name).is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(launcher: Launcher, script: &str, args: &[&str]) -> Option<&'static str> {
        let mut app = AppSpec::new("web", script, "/");
        app.launcher = launcher;
        app.args = args.iter().map(ToString::to_string).collect();
        known_program(&app).map(|(_, signal)| signal)
    }

    #[test]
    fn known_programs_are_found_in_command_lines() {
        for (line, expected) in [
            ("nginx -g 'daemon off;'", Some("SIGQUIT")),
            ("exec /usr/sbin/nginx -p . -c nginx.conf -g \"daemon off; pid a.pid;\"", Some("SIGQUIT")),
            ("LANG=C exec python3 -m gunicorn app:app", Some("SIGTERM")),
            ("uv run gunicorn app:app", Some("SIGTERM")),
            ("bundle exec puma -w 2", Some("SIGTERM")),
            ("php-fpm8.2 -F", Some("SIGQUIT")),
            ("python3.11 /srv/venv/bin/celery -A tasks worker", Some("SIGTERM")),
            ("nginx-exporter", None),
            ("echo nginx", None),
            ("nginx & node server.js", None),
            ("python3 server.py", None),
            ("python3 -m http.server", None),
        ] {
            assert_eq!(signal(Launcher::Shell, line, &[]), expected, "{line}");
        }
    }

    #[test]
    fn known_programs_are_found_as_scripts() {
        assert_eq!(signal(Launcher::Direct, "/usr/sbin/nginx", &["-g", "daemon off;"]), Some("SIGQUIT"));
        let python = Launcher::Interpreter { program: "python3".into(), args: Vec::new() };
        assert_eq!(signal(python, "/srv/venv/bin/gunicorn", &["app:app"]), Some("SIGTERM"));
        assert_eq!(signal(Launcher::Direct, "/srv/server", &["nginx"]), None);
    }
}
