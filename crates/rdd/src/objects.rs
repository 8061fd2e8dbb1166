//! Text and checkpoints in object stores.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;
use url::Url;

use crate::checkpoint::Storage;
use crate::context::Context;
use crate::rdd::Rdd;
use crate::source::Bytes;

/// A part of an object store: all that lies below one path.
#[derive(Clone, Debug)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    below: Path,
    runtime: Option<Handle>,
}

impl Objects {
    /// What lies below `below` in `store`.
    pub fn new(store: Arc<dyn ObjectStore>, below: Path) -> Self {
        Self {
            store,
            below,
            runtime: None,
        }
    }

    /// What lies below a URL such as `file:///data`. Which schemes there are besides `file` and `memory` is up to the
    /// features of `object_store`.
    ///
    /// # Errors
    ///
    /// When it is no URL, or of a scheme that is not there.
    pub fn at(url: &str) -> io::Result<Self> {
        let url = Url::parse(url).map_err(io::Error::other)?;
        let (store, below) = object_store::parse_url(&url).map_err(io::Error::other)?;
        Ok(Self::new(store.into(), below))
    }

    /// Waits on this runtime. Stores that speak over the network need one.
    #[must_use]
    pub fn on(self, runtime: Handle) -> Self {
        Self {
            runtime: Some(runtime),
            ..self
        }
    }

    fn path(&self, name: &str) -> Path {
        self.below.parts().chain(Path::from(name).parts()).collect()
    }

    fn wait<T>(&self, future: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
        let done = match &self.runtime {
            Some(runtime) => runtime.block_on(future),
            None => futures_executor::block_on(future),
        };
        done.map_err(|error| match error {
            object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
            other => io::Error::other(other),
        })
    }
}

impl Storage for Objects {
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let payload = bytes.to_vec().into();
        self.wait(self.store.put(&self.path(name), payload))
            .map(drop)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let path = self.path(name);
        let got = async { self.store.get(&path).await?.bytes().await };
        self.wait(got).map(Into::into)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.wait(self.store.delete(&self.path(name)))
    }
}

impl Context {
    /// The lines of the object `name`, as [`Self::text_file`] reads those of a file.
    ///
    /// # Panics
    ///
    /// When `partitions` is 0.
    pub fn text_object(&self, objects: &Objects, name: &str, partitions: usize) -> Rdd<String> {
        let object = Object {
            path: objects.path(name),
            objects: objects.clone(),
        };
        self.lines(Arc::new(object), partitions)
    }
}

#[derive(Clone)]
struct Object {
    objects: Objects,
    path: Path,
}

impl Bytes for Object {
    fn path(&self) -> PathBuf {
        self.path.as_ref().into()
    }

    fn length(&self) -> io::Result<u64> {
        let head = self.objects.store.head(&self.path);
        Ok(self.objects.wait(head)?.size)
    }

    fn open(&self, at: u64) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(Ranges {
            length: self.length()?,
            object: self.clone(),
            at,
            have: Vec::new(),
            read: 0,
        }))
    }
}

/// Reads an object range by range.
struct Ranges {
    object: Object,
    at: u64,
    length: u64,
    have: Vec<u8>,
    read: usize,
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.have.len() && self.at < self.length {
            let range = self.at..self.length.min(self.at + RANGE_BYTES);
            self.at = range.end;
            let Object { objects, path } = &self.object;
            self.have = objects.wait(objects.store.get_range(path, range))?.into();
            self.read = 0;
        }
        let count = (&self.have[self.read..]).read(buffer)?;
        self.read += count;
        Ok(count)
    }
}

const RANGE_BYTES: u64 = 4 << 20;
