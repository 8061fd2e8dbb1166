//! Sources beyond plain text files: CSV through Arrow, and objects.
#![cfg(feature = "threads")]

#[cfg(feature = "csv")]
mod csv {
    use std::path::PathBuf;
    use std::sync::Arc;

    use rdd::arrow_array::RecordBatch;
    use rdd::arrow_array::cast::AsArray;
    use rdd::arrow_array::types::Int64Type;
    use rdd::arrow_csv::ReaderBuilder;
    use rdd::arrow_schema::{DataType, Field, Schema};
    use rdd::{Context, Rdd};

    fn towns(context: &Context, paths: Vec<PathBuf>) -> Rdd<(String, i64)> {
        let fields = vec![
            Field::new("town", DataType::Utf8, false),
            Field::new("people", DataType::Int64, false),
        ];
        let schema = Arc::new(Schema::new(fields));
        let rows = |batch: &RecordBatch| {
            let towns = batch.column(0).as_string::<i32>();
            let people = batch.column(1).as_primitive::<Int64Type>();
            let rows = towns.iter().zip(people.values());
            rows.map(|(town, n)| (town.unwrap_or_default().to_owned(), *n))
                .collect()
        };
        let reader = move || ReaderBuilder::new(schema.clone()).with_header(true);
        context.csv_files(paths, reader, rows)
    }

    #[test]
    fn each_file_is_a_partition_and_quotes_hold_lines_together() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = ["a", "b"].map(|name| folder.path().join(name)).to_vec();
        std::fs::write(&paths[0], "town,people\n\"Two,\nlines\",7\nOne,5\n").expect("written");
        std::fs::write(&paths[1], "town,people\nOne,6\n").expect("written");
        let context = Context::local(2).expect("a folder");
        let towns = towns(&context, paths);
        assert_eq!(towns.num_partitions(), 2);
        let people = towns.reduce_by_key(2, |a, b| a + b).collect_as_map();
        let people = people.expect("runs");
        assert_eq!((people["Two,\nlines"], people["One"]), (7, 11));
    }

    #[test]
    fn a_row_that_does_not_fit_names_the_file_and_the_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bad.csv");
        std::fs::write(&path, "town,people\nOne,many\n").expect("written");
        let context = Context::local(2).expect("a folder");
        let error = towns(&context, vec![path]).count().expect_err("no number");
        let error = error.to_string();
        assert!(
            error.contains("bad.csv") && error.contains("many"),
            "{error}"
        );
    }
}

#[cfg(feature = "object-store")]
mod objects {
    use std::sync::Arc;

    use rdd::object_store::memory::InMemory;
    use rdd::{Context, Objects, Storage};

    const TEXT: &str = "one\n\ntwo\r\nthree is longer\n\nfour";

    #[test]
    fn every_line_of_an_object_is_in_exactly_one_split() {
        let objects = Objects::new(Arc::new(InMemory::new()), "below".into());
        objects.write("text", TEXT.as_bytes()).expect("written");
        let context = Context::local(2).expect("a folder");
        for splits in 1..40 {
            let lines = context.text_object(&objects, "text", splits).collect();
            assert_eq!(
                lines.expect("runs"),
                TEXT.lines().collect::<Vec<_>>(),
                "{splits} splits"
            );
        }
        let error = context.text_object(&objects, "other", 2).count();
        let error = error.expect_err("absent").to_string();
        assert!(error.contains("cannot read below/other"), "{error}");
    }

    #[test]
    fn checkpoints_lie_below_a_url() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("file://{}", folder.path().display());
        let objects: Arc<dyn Storage> = Arc::new(Objects::at(&url).expect("a store"));
        let context = Context::local(2).expect("a folder");
        let numbers = context.parallelize(0..100u64, 3);
        let kept = numbers.checkpoint(objects.clone(), "numbers");
        assert_eq!(kept.expect("written").count(), Ok(100));
        let again = context.restore::<u64>(objects.clone(), "numbers");
        assert_eq!(again.expect("there").collect(), Ok((0..100).collect()));
        assert!(folder.path().join("numbers/manifest").exists());
        rdd::remove_checkpoint(&*objects, "numbers").expect("removed");
        assert!(!folder.path().join("numbers/manifest").exists());
        assert!(Objects::at("no url").is_err() && Objects::at("ftp://host/x").is_err());
    }
}
