//! From the head of a request to a response. Reads files, and so may block.

use std::fmt::Display;
use std::path::Path;

use hyper::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName, HeaderValue, LAST_MODIFIED, LOCATION, RANGE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use super::body::{self, ResponseBody};
use super::config::ServeConfig;
use super::listing;
use super::lookup::{self, LookupError, OpenedFile, RequestPath};
use super::mime::content_type;
use super::range::{self, RangeRequest};
use super::validators::Validators;

const HTML: &str = "text/html; charset=utf-8";

/// The response to one request.
pub(super) fn respond(config: &ServeConfig, head: &Parts) -> Response<ResponseBody> {
    let mut response = if !is_authorized(config, head) {
        let response = status_page(StatusCode::UNAUTHORIZED);
        with_header(response, WWW_AUTHENTICATE, "Basic realm=\"rsm\", charset=\"UTF-8\"")
    } else if head.method != Method::GET && head.method != Method::HEAD {
        with_header(status_page(StatusCode::METHOD_NOT_ALLOWED), ALLOW, "GET, HEAD")
    } else {
        fetch(config, head).unwrap_or_else(|error| error_response(&error, head))
    };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A page that shows only the status.
pub(super) fn status_page(status: StatusCode) -> Response<ResponseBody> {
    let page = format!("<!doctype html>\n<title>{status}</title>\n<h1>{status}</h1>\n");
    let mut response = Response::new(body::of_bytes(page));
    *response.status_mut() = status;
    with_header(response, CONTENT_TYPE, HTML)
}

fn is_authorized(config: &ServeConfig, head: &Parts) -> bool {
    config.credentials.as_ref().is_none_or(|credentials| credentials.matches(&head.headers))
}

fn fetch(config: &ServeConfig, head: &Parts) -> Result<Response<ResponseBody>, LookupError> {
    let parsed = RequestPath::parse(head.uri.path());
    match parsed.and_then(|path| serve_path(config, head, &path)) {
        Err(LookupError::NotFound) => serve_fallback(config, head),
        result => result,
    }
}

/// The file or directory at a path.
fn serve_path(
    config: &ServeConfig,
    head: &Parts,
    RequestPath { path, has_trailing_slash }: &RequestPath,
) -> Result<Response<ResponseBody>, LookupError> {
    let opened = lookup::open(&config.root, path)?;
    match (opened.metadata.is_dir(), has_trailing_slash) {
        (false, false) => send(head, path, opened),
        (false, true) => Err(LookupError::NotFound),
        (true, false) => Ok(redirect_to_slash(head, path)),
        (true, true) => directory(config, head, path, &opened),
    }
}

/// Relative links in the page of a directory require a trailing slash. The location is built from the decoded
/// path: with the slashes of the request, `//host` would redirect to another site.
fn redirect_to_slash(head: &Parts, path: &Path) -> Response<ResponseBody> {
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("/{}/{query}", listing::percent_encode(path.as_os_str()));
    with_header(status_page(StatusCode::MOVED_PERMANENTLY), LOCATION, location)
}

/// The index file of a directory, or its listing if listings are enabled.
fn directory(
    config: &ServeConfig,
    head: &Parts,
    path: &Path,
    opened: &OpenedFile,
) -> Result<Response<ResponseBody>, LookupError> {
    let is_root = path.as_os_str().is_empty();
    let index = if is_root { config.homepage.clone() } else { path.join("index.html") };
    match lookup::open(&config.root, &index) {
        Ok(page) if page.metadata.is_file() => return send(head, &index, page),
        Ok(_) | Err(LookupError::NotFound) => {}
        Err(error) => return Err(error),
    }
    if !config.list_directories {
        return Err(LookupError::NotFound);
    }
    let page = listing::page(path, &lookup::descriptor_path(&opened.file))?;
    Ok(with_header(Response::new(body::of_bytes(page)), CONTENT_TYPE, HTML))
}

/// The response for missing files: the home page of a single-page app, or the `404.html` of the site.
fn serve_fallback(config: &ServeConfig, head: &Parts) -> Result<Response<ResponseBody>, LookupError> {
    if config.spa
        && let Ok(page) = lookup::open(&config.root, &config.homepage)
        && page.metadata.is_file()
    {
        return send(head, &config.homepage, page);
    }
    let opened = lookup::open(&config.root, Path::new("404.html"))?;
    if opened.metadata.is_dir() {
        return Err(LookupError::NotFound);
    }
    let mut response = send_full(head, Path::new("404.html"), opened)?;
    *response.status_mut() = StatusCode::NOT_FOUND;
    Ok(response)
}

/// A file, a part of it, or `304 Not Modified`.
fn send(head: &Parts, path: &Path, opened: OpenedFile) -> Result<Response<ResponseBody>, LookupError> {
    let validators = Validators::of(&opened.metadata);
    let size = opened.metadata.len();
    let response = if validators.is_not_modified(&head.headers) {
        let mut response = Response::new(body::of_bytes(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        match requested_range(head, &validators, size) {
            RangeRequest::Full => send_full(head, path, opened)?,
            RangeRequest::Partial(part) => {
                let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                let mut response = Response::new(body::of_file(opened.file, part)?);
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                with_header(with_header(response, CONTENT_TYPE, content_type(path)), CONTENT_RANGE, range)
            }
            RangeRequest::Unsatisfiable => {
                let response = status_page(StatusCode::RANGE_NOT_SATISFIABLE);
                return Ok(with_header(response, CONTENT_RANGE, format!("bytes */{size}")));
            }
        }
    };
    let response = with_header(with_header(response, ACCEPT_RANGES, "bytes"), ETAG, &validators.etag);
    Ok(match validators.last_modified() {
        Some(date) => with_header(response, LAST_MODIFIED, date),
        None => response,
    })
}

/// The requested part; `Range` only applies to GET.
fn requested_range(head: &Parts, validators: &Validators, size: u64) -> RangeRequest {
    match head.headers.get(RANGE).map(HeaderValue::to_str) {
        Some(Ok(header)) if head.method == Method::GET && validators.range_allowed(&head.headers) => {
            range::parse_range(header, size)
        }
        _ => RangeRequest::Full,
    }
}

/// The whole file; for HEAD only the headers, without reading the file.
fn send_full(head: &Parts, path: &Path, opened: OpenedFile) -> Result<Response<ResponseBody>, LookupError> {
    let size = opened.metadata.len();
    let body = match head.method {
        Method::HEAD => body::of_bytes(""),
        _ => body::of_file(opened.file, 0..size)?,
    };
    Ok(with_header(with_header(Response::new(body), CONTENT_TYPE, content_type(path)), CONTENT_LENGTH, size))
}

fn error_response(error: &LookupError, head: &Parts) -> Response<ResponseBody> {
    status_page(match error {
        LookupError::Malformed => StatusCode::BAD_REQUEST,
        LookupError::Forbidden => StatusCode::FORBIDDEN,
        LookupError::NotFound => StatusCode::NOT_FOUND,
        LookupError::Io(error) => {
            super::log_error(format_args!("{}: {error}", head.uri.path()));
            StatusCode::INTERNAL_SERVER_ERROR
        }
    })
}

/// Sets a header. All values are generated here and visible ASCII; any other value is omitted.
fn with_header(
    mut response: Response<ResponseBody>,
    name: HeaderName,
    value: impl Display,
) -> Response<ResponseBody> {
    if let Ok(value) = HeaderValue::try_from(value.to_string()) {
        response.headers_mut().insert(name, value);
    }
    response
}
