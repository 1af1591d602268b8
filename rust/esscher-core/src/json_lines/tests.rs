use proptest::prelude::*;

use super::{
    cursor::{Cursor, Fault},
    number::Number,
    *,
};

fn double(text: &str) -> f64 {
    let number = Number::parse(text.as_bytes()).unwrap();
    assert_eq!(number.written, text.as_bytes());
    number.double()
}

fn scanned(text: &str) -> Result<Vec<(String, Kind)>> {
    let mut scan = Scan::default();
    scan.see(text.as_bytes()).map(|()| scan.columns())
}

fn kinds(text: &str) -> Vec<Kind> {
    scanned(text).unwrap().into_iter().map(|(_, kind)| kind).collect()
}

fn columns(text: &str) -> Vec<(Option<Vec<u8>>, Values)> {
    let mut batches = read(text.as_bytes(), &scanned(text).unwrap(), 0).unwrap();
    assert_eq!(batches.len(), 1);
    batches.remove(0).columns.into_iter().map(Column::into_parts).collect()
}

#[test]
fn numbers_are_those_that_rust_reads() {
    let exponents = ["", "e5", "E-7", "e+22", "e-22", "e23", "e-300", "e400", "e-400", "e99999999999999999999999"];
    for digits in
        ["0", "7", "9007199254740993", "18446744073709551615", "1234567890123456789", "98765432101234567890123"]
    {
        for fraction in
            ["", ".5", ".00000001", ".0000000000000001", ".123456789012345678", ".99999999999999999999999999"]
        {
            for exponent in exponents {
                let text = format!("-{digits}{fraction}{exponent}");
                let expected = text.parse::<f64>().unwrap();
                let expected = if text == "-0" { 0.0 } else { expected };
                assert_eq!(double(&text).to_bits(), expected.to_bits(), "{text}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn doubles_of_every_size_are_those_that_rust_reads(digits in any::<u64>(), shift in 0_u32..64, place in 1_usize..25) {
        let digits = format!("{:0>26}", digits >> shift);
        let (whole, fraction) = digits.split_at(26 - place);
        let whole = whole.trim_start_matches('0');
        let text = format!("{}.{fraction}", if whole.is_empty() { "0" } else { whole });
        prop_assert_eq!(double(&text).to_bits(), text.parse::<f64>().unwrap().to_bits(), "{}", text);
    }

    #[test]
    fn doubles_in_the_middle_of_two_and_beside_it_are_those_that_rust_reads(
        whole in (1_u64 << 52)..(1 << 53),
        fraction in prop::sample::select(&["5", "50", "500", "49", "51", "499", "501", "0", "9"][..]),
    ) {
        // From 2^52 on, doubles are 1 apart.
        let text = format!("{whole}.{fraction}");
        prop_assert_eq!(double(&text).to_bits(), text.parse::<f64>().unwrap().to_bits(), "{}", text);
    }

    #[test]
    fn doubles_as_they_are_written_come_back(value in any::<f64>().prop_filter("finite", |x| x.is_finite())) {
        prop_assert_eq!(double(&format!("{value:e}")).to_bits(), value.to_bits());
        prop_assert_eq!(double(&format!("{value:?}")).to_bits(), value.to_bits());
    }

    #[test]
    fn no_bytes_panic(text in prop::collection::vec(prop::sample::select(&b"{}[]\"\\:,-+.019eEuntrfNIa \t\r\n\x00\xff\xc3\xa9"[..]), 0..60)) {
        let mut scan = Scan::default();
        for text in [text.clone(), [b"{\"a\":", &text[..], b"}"].concat(), [b"{\"a\":1}\n", &text[..]].concat()] {
            // What is broken may be found in either pass; what is whole is read.
            let seen = scan.see(&text);
            for kind in [Kind::Null, Kind::Boolean, Kind::Integer, Kind::Double, Kind::Text, Kind::Json, Kind::List(Box::new(Kind::Double))] {
                let _ = read(&text, &[("a".into(), kind)], 0);
            }
            let mut alone = Scan::default();
            if seen.is_ok() && alone.see(&text).is_ok() {
                let batches = read(&text, &alone.columns(), 0).unwrap();
                prop_assert_eq!(batches.iter().map(|batch| batch.rows).sum::<usize>(), alone.rows);
            }
        }
    }
}

#[test]
fn a_column_is_of_the_kind_that_holds_all_its_values() {
    let text = r#"{"a":null,"b":true,"c":1,"d":1,"e":"x","f":[],"g":{"x":1},"h":1,"i":9007199254740993,"j":{},"k":"\ud800"}
{"a":null,"b":null,"c":-9223372036854775808,"d":0.5,"e":"\u00e9","f":[null,NaN],"g":{"y":[true]},"h":"x","i":0.5}"#;
    let double = |kind| Kind::List(Box::new(kind));
    let record = vec![("x".into(), Kind::Integer), ("y".into(), double(Kind::Boolean))];
    let numbers = [Kind::Null, Kind::Boolean, Kind::Integer, Kind::Double, Kind::Text, double(Kind::Double)];
    let others = [Kind::Record(record), Kind::Json, Kind::Json, Kind::Json, Kind::Json];
    assert_eq!(kinds(text), [&numbers[..], &others[..]].concat());
}

#[test]
fn integers_beyond_64_bits_are_kept_as_they_are_written() {
    let text = "{\"x\":9223372036854775808}\n{\"x\": -1 }\n{\"x\":null}";
    let json = b"9223372036854775808-1".to_vec();
    assert_eq!(columns(text), [(Some(vec![0b011]), Values::Json(vec![0, 19, 21, 21], json))]);
}

#[test]
fn lists_are_flat_with_offsets_and_bits_for_what_is_there() {
    let (valid, values) = columns("{\"x\":[0.5,null,-1]}\n{}\n{\"x\":[]}\n{\"x\":[2]}").remove(0);
    assert_eq!(valid, Some(vec![0b1101]));
    let Values::List(offsets, elements) = values else { panic!("no list") };
    assert_eq!(offsets, [0, 3, 3, 3, 4]);
    assert_eq!(elements.into_parts(), (Some(vec![0b1101]), Values::Double(vec![0.5, 0.0, -1.0, 2.0])));
}

#[test]
fn of_values_under_one_key_the_last_counts() {
    let text = r#"{"x":[1,2],"x":[3],"y":{"z":"a","z":"bc"},"x":null,"x":[4]}"#;
    let found = columns(text);
    let Values::List(offsets, elements) = found[0].1.clone() else { panic!("no list") };
    assert_eq!((offsets, elements.into_parts()), (vec![0, 1], (None, Values::Integer(vec![4]))));
    let Values::Record(record) = found[1].1.clone() else { panic!("no record") };
    let texts = record.into_columns().remove(0).into_parts();
    assert_eq!(texts, (None, Values::Text(vec![0, 2], b"bc".to_vec())));
}

#[test]
fn strings_are_what_they_mean() {
    let text = r#"{"x":"\"\\\/\b\f\n\r\tA\u0041\u00e9\ud83d\ude00é"}"#;
    let meant = "\"\\/\u{8}\u{c}\n\r\tAAé😀é".as_bytes().to_vec();
    assert_eq!(columns(text), [(None, Values::Text(vec![0, meant.len() as i32], meant))]);
}

#[test]
fn json_is_kept_in_utf8_and_with_numbers_for_infinities() {
    let text = b"{\"x\":[ Infinity,\"a Infinity\\\" \",-Infinity , NaN,\"\xff\"]}";
    let batches = read(text, &[("x".into(), Kind::Json)], 0).unwrap();
    let (_, values) = batches.into_iter().next().unwrap().columns.remove(0).into_parts();
    let Values::Json(_, bytes) = values else { panic!("no JSON") };
    assert_eq!(String::from_utf8(bytes).unwrap(), r#"[ 1e999,"a Infinity\" ",-1e999 , NaN,"\udcff"]"#);
}

#[test]
fn lines_are_counted_and_blank_ones_passed_over() {
    let mut scan = Scan::default();
    scan.see(b"\xef\xbb\xbf\n \r\n{}\r{} \r\n").unwrap();
    assert_eq!((scan.lines, scan.rows), (4, 2));
    let error = scan.see(b"\n{}\n{\"a\":tru}").unwrap_err();
    let what = "no value begins here";
    assert_eq!(error, Error::NotJson { line: 7, what, character: 5 });
    assert_eq!(scanned("{}\n[1]"), Err(Error::NoObject { line: 2 }));
    assert!(error.to_string().starts_with("line 7 is not valid JSON: no value begins here at character 5. JSON lines"));
}

#[test]
fn a_line_of_any_piece_is_named() {
    let mut text = "{\"x\":[0.5,1,2,3,4,5,6,7,8,9]}\n".repeat(100_000);
    assert_eq!(lines::pieces(text.as_bytes()).concat(), text.as_bytes());
    let columns = scanned(&text).unwrap();
    let batches = read(text.as_bytes(), &columns, 0).unwrap();
    assert!(batches.len() > 5);
    assert_eq!(batches.iter().map(|batch| batch.rows).sum::<usize>(), 100_000);
    text.push_str("{\"x\":[\"a\"]}");
    assert!(matches!(read(text.as_bytes(), &columns, 5), Err(Error::UnreadableLine { line: 100_006, .. })));
}

#[test]
fn what_is_nested_too_deeply_is_no_value() {
    let deep = "[".repeat(600) + &"]".repeat(600);
    let text = format!("{{\"x\":{deep}}}");
    assert!(matches!(scanned(&text), Err(Error::UnreadableLine { line: 1, .. })));
    let mut cursor = Cursor::new(deep.as_bytes());
    assert_eq!(cursor.skip().unwrap(), deep.as_bytes());
    assert_eq!(Cursor::new(b"[[1]").skip(), Err(Fault::Syntax("the line ends within a value")));
}
