//! Data files: where each row begins and ends, so that rows are read one at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::error::{DataError, RowProblem};

/// Most bytes of one row; pictures may stand in it as data URIs.
const LARGEST_ROW: u64 = 256 << 20;

/// The bytes of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowSpan {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Line in which the row begins, from 1.
    pub(super) line: usize,
}

/// A file whose rows are known by their place.
#[derive(Debug)]
pub(super) struct RowFile {
    path: PathBuf,
    rows: Vec<RowSpan>,
    stamp: (u64, Option<SystemTime>),
}

impl RowFile {
    /// Finds the rows of a JSON list or of JSONL, which are told apart by content: a file that begins with `[` is a list,
    /// unless its first line is a whole list and more lines follow (JSONL of packed rows).
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let failed = |source| DataError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let stamp = stamp(&file).map_err(failed)?;
        let mut reader = Reader::new(path, file);
        let rows = match reader.first_byte()? {
            None => return Err(DataError::Empty { path: path.to_owned() }),
            Some(b'{') => reader.lines()?,
            Some(b'[') if reader.is_packed_lines()? => reader.lines()?,
            Some(b'[') => reader.list()?,
            Some(other) => return Err(reader.bad_start(other)),
        };
        match rows.is_empty() {
            true => Err(DataError::Empty { path: path.to_owned() }),
            false => Ok(Self { path: path.to_owned(), rows, stamp }),
        }
    }

    pub(super) fn rows(&self) -> &[RowSpan] {
        &self.rows
    }

    /// The bytes of a row. The file is opened anew, so that threads do not wait for each other.
    pub(super) fn read(&self, row: RowSpan) -> Result<Vec<u8>, RowProblem> {
        let mut file = File::open(&self.path).map_err(RowProblem::Io)?;
        if stamp(&file).map_err(RowProblem::Io)? != self.stamp {
            return Err(RowProblem::Changed);
        }
        file.seek(SeekFrom::Start(row.start)).map_err(RowProblem::Io)?;
        let mut bytes = Vec::new();
        file.take(row.end - row.start).read_to_end(&mut bytes).map_err(RowProblem::Io)?;
        match bytes.len() as u64 == row.end - row.start {
            true => Ok(bytes),
            false => Err(RowProblem::Changed),
        }
    }

    /// Length and hash of the whole file.
    pub(super) fn fingerprint(&self) -> Result<Fingerprint, DataError> {
        let failed = |source| DataError::Io { path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(failed)?;
        let mut found = Fingerprint { bytes: 0, hash: String::new() };
        let (mut hash, mut block) = (FNV_OFFSET, vec![0; 1 << 16]);
        loop {
            match file.read(&mut block).map_err(failed)? {
                0 => break,
                count => {
                    found.bytes += count as u64;
                    hash = block[..count].iter().fold(hash, |hash, byte| fnv(hash, *byte));
                }
            }
        }
        found.hash = format!("{hash:016x}");
        Ok(found)
    }
}

/// What a data file holds, in few bytes. Pictures and videos that its rows name are not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Length of the file.
    pub bytes: u64,
    /// FNV-1a of 64 bits over all bytes of the file, however long it is, in hexadecimal. It tells changes, not forgeries.
    pub hash: String,
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

fn stamp(file: &File) -> std::io::Result<(u64, Option<SystemTime>)> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified().ok()))
}

/// Reads a file byte by byte and counts lines.
struct Reader<'p> {
    path: &'p Path,
    file: BufReader<File>,
    at: u64,
    line: usize,
}

impl<'p> Reader<'p> {
    fn new(path: &'p Path, file: File) -> Self {
        Self { path, file: BufReader::with_capacity(1 << 16, file), at: 0, line: 1 }
    }

    fn failed(&self, source: std::io::Error) -> DataError {
        DataError::Io { path: self.path.to_owned(), source }
    }

    fn list_error(&self, line: usize, what: String) -> DataError {
        DataError::List { path: self.path.to_owned(), line, what }
    }

    fn peek(&mut self) -> Result<Option<u8>, DataError> {
        match self.file.fill_buf() {
            Ok(bytes) => Ok(bytes.first().copied()),
            Err(source) => Err(DataError::Io { path: self.path.to_owned(), source }),
        }
    }

    fn next(&mut self) -> Result<Option<u8>, DataError> {
        let byte = self.peek()?;
        if let Some(byte) = byte {
            self.file.consume(1);
            self.at += 1;
            self.line += usize::from(byte == b'\n');
        }
        Ok(byte)
    }

    /// Skips a byte order mark and white space.
    fn first_byte(&mut self) -> Result<Option<u8>, DataError> {
        for byte in *b"\xef\xbb\xbf" {
            match self.peek()? {
                Some(found) if found == byte => self.next()?,
                _ => break,
            };
        }
        self.skip_space()
    }

    fn skip_space(&mut self) -> Result<Option<u8>, DataError> {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek()? {
            self.next()?;
        }
        self.peek()
    }

    fn bad_start(&self, byte: u8) -> DataError {
        let found = match byte {
            0xff | 0xfe => "a byte order mark of UTF-16".to_owned(),
            byte if byte.is_ascii_graphic() => format!("`{}`", char::from(byte)),
            byte => format!("the byte 0x{byte:02x}"),
        };
        DataError::Start { path: self.path.to_owned(), found }
    }

    /// Every line that is not blank.
    fn lines(&mut self) -> Result<Vec<RowSpan>, DataError> {
        let mut rows = Vec::new();
        while self.skip_space()?.is_some() {
            let (start, line) = (self.at, self.line);
            let mut end = start;
            while let Some(byte) = self.next()? {
                if byte == b'\n' {
                    break;
                }
                end = if byte.is_ascii_whitespace() { end } else { self.at };
            }
            rows.push(self.row(start, end, line)?);
        }
        Ok(rows)
    }

    fn row(&self, start: u64, end: u64, line: usize) -> Result<RowSpan, DataError> {
        if end - start > LARGEST_ROW {
            let path = self.path.to_owned();
            return Err(DataError::TooLarge { path, line, limit: LARGEST_ROW });
        }
        Ok(RowSpan { start, end, line })
    }

    /// Whether the first line is a whole list and another value follows; the place is kept.
    fn is_packed_lines(&mut self) -> Result<bool, DataError> {
        let (at, line) = (self.at, self.line);
        let mut value = Value::default();
        let mut whole = false;
        while let Some(byte) = self.peek()?.filter(|byte| *byte != b'\n') {
            self.next()?;
            value.push(byte);
            if value.depth == 0 && !value.in_string {
                whole = true;
                break;
            }
        }
        let packed = whole && matches!(self.skip_space()?, Some(b'[' | b'{'));
        self.file.seek(SeekFrom::Start(at)).map_err(|source| self.failed(source))?;
        (self.at, self.line) = (at, line);
        Ok(packed)
    }

    /// The entries of a list.
    fn list(&mut self) -> Result<Vec<RowSpan>, DataError> {
        let opened = self.line;
        self.next()?;
        let mut rows = Vec::new();
        loop {
            let (start, line) = (self.skip_space()?.map(|_| self.at), self.line);
            let (end, stop) = self.entry()?;
            let Some(start) = start.filter(|_| stop.is_some()) else {
                let what = format!(
                    "the list that begins in line {opened} is not closed; the file ends inside the entry that begins here"
                );
                return Err(self.list_error(line, what));
            };
            match (end > start, stop) {
                (true, _) => rows.push(self.row(start, end, line)?),
                (false, Some(b']')) if rows.is_empty() => {}
                (false, _) => {
                    let what = "an entry of the list is missing before `,` or `]`".to_owned();
                    return Err(self.list_error(line, what));
                }
            }
            if stop == Some(b']') {
                break;
            }
        }
        match self.skip_space()? {
            None => Ok(rows),
            Some(_) => Err(self.list_error(self.line, "text follows the end of the list".into())),
        }
    }

    /// Reads to the `,` or `]` behind an entry; returns the byte behind its last visible one, and what ended it.
    fn entry(&mut self) -> Result<(u64, Option<u8>), DataError> {
        let mut value = Value::default();
        let mut end = self.at;
        while let Some(byte) = self.next()? {
            if value.depth == 0 && !value.in_string && matches!(byte, b',' | b']') {
                return Ok((end, Some(byte)));
            }
            value.push(byte);
            end = if byte.is_ascii_whitespace() { end } else { self.at };
        }
        Ok((end, None))
    }
}

/// How deep inside a JSON value the reader is.
#[derive(Default)]
struct Value {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Value {
    fn push(&mut self, byte: u8) {
        match (self.in_string, byte) {
            (true, _) if self.escaped => self.escaped = false,
            (true, b'\\') => self.escaped = true,
            (_, b'"') => self.in_string = !self.in_string,
            (false, b'[' | b'{') => self.depth += 1,
            (false, b']' | b'}') => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// Text and line of every row, or the error without the path.
    fn rows(bytes: &[u8]) -> Result<Vec<(String, usize)>, String> {
        let file = file(bytes);
        let path = file.path().display().to_string();
        let rows = RowFile::open(file.path()).map_err(|e| e.to_string().replace(&path, "F"))?;
        let text = |row: &RowSpan| String::from_utf8(rows.read(*row).unwrap()).unwrap();
        Ok(rows.rows().iter().map(|row| (text(row), row.line)).collect())
    }

    fn found(rows: &[(&str, usize)]) -> Result<Vec<(String, usize)>, String> {
        Ok(rows.iter().map(|(text, line)| ((*text).to_owned(), *line)).collect())
    }

    #[test]
    fn lines_may_be_blank_or_end_as_on_windows() {
        let text = b"\xef\xbb\xbf\r\n{\"a\": 1}\r\n\r\n  {\"b\": \"]\"} \n\n{}";
        assert_eq!(rows(text), found(&[("{\"a\": 1}", 2), ("{\"b\": \"]\"}", 4), ("{}", 6)]));
    }

    #[test]
    fn entries_of_a_list_may_hold_anything() {
        let text = br#"[
          {"a": "],[\" \\", "b": [1, {"c": 2}]} ,
          [{"d": 1}, {"d": 2}],
          {
            "e": 3
          }
        ]
        "#;
        let expected = found(&[
            (r#"{"a": "],[\" \\", "b": [1, {"c": 2}]}"#, 2),
            (r#"[{"d": 1}, {"d": 2}]"#, 3),
            ("{\n            \"e\": 3\n          }", 4),
        ]);
        assert_eq!(rows(text), expected);
        assert_eq!(rows(b"[{\"a\":1},{}]"), found(&[("{\"a\":1}", 1), ("{}", 1)]));
    }

    #[test]
    fn lines_of_lists_are_packed_rows() {
        let text = b"[{}, {}]\n[{}]\n{\"x\": [1]}\n";
        assert_eq!(rows(text), found(&[("[{}, {}]", 1), ("[{}]", 2), ("{\"x\": [1]}", 3)]));
    }

    #[test]
    fn broken_files_name_the_line() {
        let cases: [(&[u8], &str); 9] = [
            (b"", "The data file F has no rows."),
            (b" \n\n", "The data file F has no rows."),
            (b"[ ]", "The data file F has no rows."),
            (b"id,text\n", "The data file F begins with `i`"),
            (b"\xff\xfe{\0", "a byte order mark of UTF-16"),
            (b"[{},\n{},,{}]", "F, line 2: an entry of the list is missing"),
            (b"[{},\n{},\n]", "F, line 3: an entry of the list is missing"),
            (b"[{},\n{\"a\": \"x\n,", "F, line 2: the list that begins in line 1 is not closed"),
            (b"[{}]\nx", "F, line 2: text follows the end of the list"),
        ];
        for (text, expected) in cases {
            let error = rows(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(matches!(RowFile::open(Path::new("none.json")), Err(DataError::Io { .. })));
    }

    #[test]
    fn fingerprints_are_of_every_byte() {
        let of = |bytes: &[u8]| RowFile::open(file(bytes).path()).unwrap().fingerprint().unwrap();
        // FNV-1a of "{}\n", by hand.
        let hash = b"{}\n".iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(1_099_511_628_211)
        });
        assert_eq!(of(b"{}\n"), Fingerprint { bytes: 3, hash: format!("{hash:016x}") });
        let long = [b"{\"a\": \"", &[b'x'; 200_000][..], b"\"}"].concat();
        let mut other = long.clone();
        other[150_000] = b'y';
        assert_eq!(of(&long), of(&long));
        assert_ne!(of(&long).hash, of(&other).hash);
    }

    #[test]
    fn a_file_that_changes_is_noticed() {
        let mut file = file(b"{\"a\": 1}\n");
        let rows = RowFile::open(file.path()).unwrap();
        file.write_all(b"{}\n").unwrap();
        assert!(matches!(rows.read(rows.rows()[0]), Err(RowProblem::Changed)));
    }
}
