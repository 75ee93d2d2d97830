//! The lines of a file, plain or gzip, read on a thread of their own.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

use super::progress::Progress;

/// Longest line that is read: no product is larger.
const LINE_BYTES_MAX: usize = 1024 * 1024;

const LINES_AHEAD: usize = 256;

/// A numbered line, or why it could not be read.
pub type Line = (u64, Result<Vec<u8>, String>);

/// Reads the lines; a failure of the file itself is the last item.
pub fn read(file: Box<dyn Read + Send>, progress: &Arc<Progress>) -> mpsc::Receiver<Line> {
    let (lines, received) = mpsc::channel(LINES_AHEAD);
    let progress = progress.clone();
    std::thread::spawn(move || {
        let mut reader = match unpacked(file, &progress) {
            Ok(reader) => reader,
            Err(error) => return drop(lines.blocking_send((0, Err(error.to_string())))),
        };
        for number in 1.. {
            let line = match next(&mut reader) {
                Ok(None) => return,
                Ok(Some(line)) => line,
                Err(error) => {
                    return drop(lines.blocking_send((number, Err(format!("not readable: {error}")))));
                }
            };
            if lines.blocking_send((number, line)).is_err() {
                return;
            }
        }
    });
    received
}

/// The file as it is, or unpacked if it begins as gzip does.
///
/// # Errors
/// It can't be read.
pub fn unpacked(file: Box<dyn Read + Send>, progress: &Arc<Progress>) -> std::io::Result<Box<dyn BufRead>> {
    let counted = Counted { file, progress: progress.clone() };
    let mut buffered = BufReader::with_capacity(64 * 1024, counted);
    let gzip = buffered.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if gzip { Box::new(BufReader::new(MultiGzDecoder::new(buffered))) } else { Box::new(buffered) })
}

/// One line without its end; what is too long is skipped, not kept in memory.
fn next(reader: &mut dyn BufRead) -> std::io::Result<Option<Result<Vec<u8>, String>>> {
    let mut line = Vec::new();
    let mut whole = reader.take(LINE_BYTES_MAX as u64);
    if whole.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() == LINE_BYTES_MAX && line.last() != Some(&b'\n') {
        while !line.ends_with(b"\n") {
            line.clear();
            let mut rest = reader.take(LINE_BYTES_MAX as u64);
            if rest.read_until(b'\n', &mut line)? == 0 {
                break;
            }
        }
        return Ok(Some(Err(format!("longer than {LINE_BYTES_MAX} bytes"))));
    }
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    Ok(Some(Ok(line)))
}

/// Counts what is read of the file itself, for the progress bar.
struct Counted<R> {
    file: R,
    progress: Arc<Progress>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.progress.read(bytes as u64);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: Vec<u8>) -> Vec<Line> {
        let mut received = read(Box::new(std::io::Cursor::new(bytes)), &Arc::new(Progress::quiet()));
        std::iter::from_fn(|| received.blocking_recv()).collect()
    }

    #[test]
    fn lines_are_numbered_with_any_ending() {
        let expected = [(1, b"a".to_vec()), (2, b"".to_vec()), (3, b"b".to_vec())];
        let expected: Vec<Line> = expected.into_iter().map(|(number, line)| (number, Ok(line))).collect();
        assert_eq!(lines(b"a\r\n\nb".to_vec()), expected);
    }

    #[test]
    fn gzip_is_unpacked_and_a_cut_one_is_reported() {
        use std::io::Write;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"one\ntwo\n").unwrap();
        let packed = packed.finish().unwrap();
        assert_eq!(lines(packed.clone()).len(), 2);
        let cut = lines(packed[..packed.len() - 6].to_vec());
        assert!(cut.last().unwrap().1.is_err(), "{cut:?}");
    }

    #[test]
    fn a_line_beyond_measure_is_skipped_and_reported() {
        let mut bytes = vec![b'x'; 3 * LINE_BYTES_MAX];
        bytes.extend(b"\nnext\n");
        let read = lines(bytes);
        assert!(read[0].1.is_err());
        assert_eq!(read[1], (2, Ok(b"next".to_vec())));
    }
}
