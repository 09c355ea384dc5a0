//! The compressions of layers: names, magic numbers, media types, streaming decompression.

use std::io::{self, BufRead, BufReader, Read};

use cooper_oci::media_types;

/// How a layer's tar stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// RFC 1952, one member or many.
    #[default]
    Gzip,
    /// RFC 8878, one frame or many.
    Zstd,
}

/// Bytes that tell every compression apart.
const MAGIC_LEN: usize = 4;

impl Compression {
    /// The name that exporters' `compression` attribute uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The compression of a stream by its first bytes; four are enough.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            // A data frame, or one to be skipped (16 magic numbers) in front of it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Uncompressed,
        }
    }

    /// The compression that a layer's media type states, also of foreign layers; `None` for what is no layer.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        Some(match media_type {
            media_types::OCI_LAYER
            | media_types::OCI_LAYER_NONDIST
            | media_types::DOCKER_LAYER
            | media_types::DOCKER_FOREIGN => Self::Uncompressed,
            media_types::OCI_LAYER_GZIP
            | media_types::OCI_LAYER_NONDIST_GZIP
            | media_types::DOCKER_LAYER_GZIP
            | media_types::DOCKER_FOREIGN_GZIP => Self::Gzip,
            media_types::OCI_LAYER_ZSTD
            | media_types::DOCKER_LAYER_ZSTD
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd" => Self::Zstd,
            _ => return None,
        })
    }

    /// The media type of a layer in OCI's or Docker's vocabulary.
    pub const fn media_type(self, docker: bool) -> &'static str {
        match (self, docker) {
            (Self::Uncompressed, false) => media_types::OCI_LAYER,
            (Self::Gzip, false) => media_types::OCI_LAYER_GZIP,
            (Self::Zstd, false) => media_types::OCI_LAYER_ZSTD,
            (Self::Uncompressed, true) => media_types::DOCKER_LAYER,
            (Self::Gzip, true) => media_types::DOCKER_LAYER_GZIP,
            (Self::Zstd, true) => media_types::DOCKER_LAYER_ZSTD,
        }
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The uncompressed stream of a blob. With `None` the compression is told from the first bytes.
///
/// All gzip members and all zstd frames are read; a truncated stream is an error.
pub fn decompress<'r>(
    reader: impl Read + Send + 'r,
    compression: Option<Compression>,
) -> io::Result<Box<dyn Read + Send + 'r>> {
    let mut reader = BufReader::with_capacity(256 * 1024, reader);
    let Some(compression) = compression else {
        // A source may hand out less than a magic number at a time, so the start is collected first.
        let mut start = Vec::with_capacity(MAGIC_LEN);
        (&mut reader).take(MAGIC_LEN as u64).read_to_end(&mut start)?;
        let compression = Compression::detect(&start);
        return decoder(io::Cursor::new(start).chain(reader), compression);
    };
    decoder(reader, compression)
}

fn decoder<'r>(reader: impl BufRead + Send + 'r, compression: Compression) -> io::Result<Box<dyn Read + Send + 'r>> {
    Ok(match compression {
        Compression::Uncompressed => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
    })
}
