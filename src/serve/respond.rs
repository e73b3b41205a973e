//! A request's head to a response. Knows no socket; reads the disk, so it may block.

use std::fmt::Display;
use std::path::Path;

use hyper::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName, HeaderValue, LAST_MODIFIED, LOCATION, RANGE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use super::args::Settings;
use super::body::{self, ResponseBody};
use super::listing;
use super::lookup::{self, Found, Place, Refusal};
use super::mime::content_type;
use super::range::{self, Wanted};
use super::validators::Validators;

const HTML: &str = "text/html; charset=utf-8";

/// Answers one request.
pub(super) fn respond(settings: &Settings, head: &Parts) -> Response<ResponseBody> {
    let mut response = if !admitted(settings, head) {
        let response = notice(StatusCode::UNAUTHORIZED);
        with(response, WWW_AUTHENTICATE, "Basic realm=\"rsm\", charset=\"UTF-8\"")
    } else if head.method != Method::GET && head.method != Method::HEAD {
        with(notice(StatusCode::METHOD_NOT_ALLOWED), ALLOW, "GET, HEAD")
    } else {
        fetch(settings, head).unwrap_or_else(|refusal| refused(&refusal, head))
    };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A page that says no more than the status does.
pub(super) fn notice(status: StatusCode) -> Response<ResponseBody> {
    let page = format!("<!doctype html>\n<title>{status}</title>\n<h1>{status}</h1>\n");
    let mut response = Response::new(body::of_bytes(page));
    *response.status_mut() = status;
    with(response, CONTENT_TYPE, HTML)
}

fn admitted(settings: &Settings, head: &Parts) -> bool {
    settings.credentials.as_ref().is_none_or(|credentials| credentials.admit(&head.headers))
}

fn fetch(settings: &Settings, head: &Parts) -> Result<Response<ResponseBody>, Refusal> {
    let found = Place::read(head.uri.path()).and_then(|place| visit(settings, head, &place));
    match found {
        Err(Refusal::Missing) => instead(settings, head),
        found => found,
    }
}

/// What lies at a place.
fn visit(settings: &Settings, head: &Parts, place: &Place) -> Result<Response<ResponseBody>, Refusal> {
    let found = lookup::open(&settings.root, &place.path)?;
    match (found.metadata.is_dir(), place.slash) {
        (false, false) => send(head, &place.path, found),
        (false, true) => Err(Refusal::Missing),
        (true, false) => Ok(to_slash(head, &place.path)),
        (true, true) => directory(settings, head, &place.path, &found),
    }
}

/// Relative links in a directory's page only work below a slash. Built from what was decoded: with
/// the slashes of the request, `//host` would lead to another site.
fn to_slash(head: &Parts, path: &Path) -> Response<ResponseBody> {
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("/{}/{query}", listing::encode(path.as_os_str()));
    with(notice(StatusCode::MOVED_PERMANENTLY), LOCATION, location)
}

/// A directory's index, else its listing if that is wanted.
fn directory(
    settings: &Settings,
    head: &Parts,
    path: &Path,
    found: &Found,
) -> Result<Response<ResponseBody>, Refusal> {
    let is_root = path.as_os_str().is_empty();
    let index = if is_root { settings.homepage.clone() } else { path.join("index.html") };
    match lookup::open(&settings.root, &index) {
        Ok(page) if page.metadata.is_file() => return send(head, &index, page),
        Ok(_) | Err(Refusal::Missing) => {}
        Err(refusal) => return Err(refusal),
    }
    if !settings.listing {
        return Err(Refusal::Missing);
    }
    let page = listing::page(path, &lookup::descriptor_path(&found.file))?;
    Ok(with(Response::new(body::of_bytes(page)), CONTENT_TYPE, HTML))
}

/// For what is missing: the home page of an application, or the site's own page for that.
fn instead(settings: &Settings, head: &Parts) -> Result<Response<ResponseBody>, Refusal> {
    if settings.spa
        && let Ok(page) = lookup::open(&settings.root, &settings.homepage)
        && page.metadata.is_file()
    {
        return send(head, &settings.homepage, page);
    }
    let found = lookup::open(&settings.root, Path::new("404.html"))?;
    if found.metadata.is_dir() {
        return Err(Refusal::Missing);
    }
    let mut response = whole(head, Path::new("404.html"), found)?;
    *response.status_mut() = StatusCode::NOT_FOUND;
    Ok(response)
}

/// A file, or the part of it, or the word that the client's copy is good.
fn send(head: &Parts, path: &Path, found: Found) -> Result<Response<ResponseBody>, Refusal> {
    let validators = Validators::of(&found.metadata);
    let size = found.metadata.len();
    let response = if validators.fresh(&head.headers) {
        let mut response = Response::new(body::of_bytes(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        match part(head, &validators, size) {
            Wanted::All => whole(head, path, found)?,
            Wanted::Part(part) => {
                let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                let mut response = Response::new(body::of_file(found.file, part)?);
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                with(with(response, CONTENT_TYPE, content_type(path)), CONTENT_RANGE, range)
            }
            Wanted::Beyond => {
                let response = notice(StatusCode::RANGE_NOT_SATISFIABLE);
                return Ok(with(response, CONTENT_RANGE, format!("bytes */{size}")));
            }
        }
    };
    let response = with(with(response, ACCEPT_RANGES, "bytes"), ETAG, &validators.etag);
    Ok(match validators.last_modified() {
        Some(date) => with(response, LAST_MODIFIED, date),
        None => response,
    })
}

/// What part the client wants; ranges are for GET alone.
fn part(head: &Parts, validators: &Validators, size: u64) -> Wanted {
    match head.headers.get(RANGE).map(HeaderValue::to_str) {
        Some(Ok(header)) if head.method == Method::GET && validators.allow_range(&head.headers) => {
            range::wanted(header, size)
        }
        _ => Wanted::All,
    }
}

/// All of a file; its length alone for HEAD, which then reads nothing.
fn whole(head: &Parts, path: &Path, found: Found) -> Result<Response<ResponseBody>, Refusal> {
    let size = found.metadata.len();
    let body = match head.method {
        Method::HEAD => body::of_bytes(""),
        _ => body::of_file(found.file, 0..size)?,
    };
    Ok(with(with(Response::new(body), CONTENT_TYPE, content_type(path)), CONTENT_LENGTH, size))
}

fn refused(refusal: &Refusal, head: &Parts) -> Response<ResponseBody> {
    notice(match refusal {
        Refusal::Malformed => StatusCode::BAD_REQUEST,
        Refusal::Forbidden => StatusCode::FORBIDDEN,
        Refusal::Missing => StatusCode::NOT_FOUND,
        Refusal::Trouble(error) => {
            super::complain(format_args!("{}: {error}", head.uri.path()));
            StatusCode::INTERNAL_SERVER_ERROR
        }
    })
}

/// Sets a header. All values are made here, of visible ASCII; anything else is left out.
fn with(
    mut response: Response<ResponseBody>,
    name: HeaderName,
    value: impl Display,
) -> Response<ResponseBody> {
    if let Ok(value) = HeaderValue::try_from(value.to_string()) {
        response.headers_mut().insert(name, value);
    }
    response
}
