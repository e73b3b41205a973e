//! Content types by file extension.

use std::path::Path;

/// For unknown extensions.
const BINARY: &str = "application/octet-stream";

/// For names without an extension: `LICENSE`, `CNAME`.
const TEXT: &str = "text/plain; charset=utf-8";

/// The value of `Content-Type` for a file.
pub(super) fn content_type(path: &Path) -> &'static str {
    let Some(extension) = path.extension() else { return TEXT };
    match extension.to_string_lossy().to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" | "cjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "jsonld" => "application/ld+json",
        "webmanifest" => "application/manifest+json",
        "wasm" => "application/wasm",
        "xml" | "xsl" => "application/xml",
        "xhtml" => "application/xhtml+xml",
        "rss" => "application/rss+xml",
        "atom" => "application/atom+xml",
        "txt" | "text" | "log" | "conf" | "ini" | "toml" | "ts" | "tsx" | "jsx" => TEXT,
        "md" | "markdown" => "text/markdown; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "yaml" | "yml" => "application/yaml",
        "ics" => "text/calendar; charset=utf-8",
        "vtt" => "text/vtt; charset=utf-8",
        "png" | "apng" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "svg" => "image/svg+xml",
        "ico" => "image/x-icon",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "eot" => "application/vnd.ms-fontobject",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "aac" => "audio/aac",
        "ogg" | "oga" | "opus" => "audio/ogg",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "ogv" => "video/ogg",
        "mov" => "video/quicktime",
        "mkv" => "video/x-matroska",
        "m3u8" => "application/vnd.apple.mpegurl",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "tar" => "application/x-tar",
        "7z" => "application/x-7z-compressed",
        "glb" => "model/gltf-binary",
        "gltf" => "model/gltf+json",
        _ => BINARY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_is_case_insensitive() {
        let kind = |name: &str| content_type(Path::new(name));
        assert_eq!(kind("a/index.HTML"), "text/html; charset=utf-8");
        assert_eq!(kind("app.min.js"), "text/javascript; charset=utf-8");
        assert_eq!(kind("LICENSE"), TEXT);
        assert_eq!(kind("a.b/LICENSE"), TEXT);
        assert_eq!(kind("data.xyz"), BINARY);
    }
}
