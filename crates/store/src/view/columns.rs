//! How our types stand in SQLite's columns, and how their sums are taken exactly.

use std::str::FromStr;

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use tollgate_ledger::Amounts;
use tollgate_ledger::account::Columns;
use tollgate_types::{PicoSum, PicoUsd, RequestId};

/// A `u64` as the `i64` of the same bits: SQLite has no larger integers, and nothing may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bits(pub u64);

/// A request id, read from [`id_bytes`].
pub(super) struct Id(pub RequestId);

/// Text that [`FromStr`] reads.
pub(super) struct Parsed<T>(pub T);

/// One of an enum's variants, by the name that serde gives it.
pub(super) struct Named<T>(pub T);

/// The cells of a row, from left to right.
pub(super) struct Cells<'a, 'stmt> {
    row: &'a Row<'stmt>,
    next: usize,
}

// === impl Bits ===

impl ToSql for Bits {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.cast_signed().into())
    }
}

impl FromSql for Bits {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(|bits| Self(bits.cast_unsigned()))
    }
}

/// SQL for the sum of a column of [`Bits`], as two sums: of the upper and of the lower 32 bits.
///
/// SQLite's `SUM` of integers is exact or fails. A half is below 2^32, so it takes more than 2^31 rows to fail.
pub(super) fn sum_sql(column: &str) -> String {
    format!("SUM(({column} >> 32) & 0xffffffff), SUM({column} & 0xffffffff)")
}

// === impl Id ===

/// Most significant byte first, so that the order of the bytes is the order of the ids.
pub(crate) fn id_bytes(id: RequestId) -> [u8; 16] {
    id.0.to_be_bytes()
}

impl FromSql for Id {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 16]>::column_result(value).map(|bytes| Self(RequestId(u128::from_be_bytes(bytes))))
    }
}

// === impl Parsed, Named ===

impl<T: FromStr<Err: std::error::Error + Send + Sync + 'static>> FromSql for Parsed<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map(Self).map_err(FromSqlError::other)
    }
}

impl<T: for<'de> Deserialize<'de>> FromSql for Named<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name: StrDeserializer<'_, serde::de::value::Error> = value.as_str()?.into_deserializer();
        T::deserialize(name).map(Self).map_err(FromSqlError::other)
    }
}

// === impl Cells ===

impl<'a, 'stmt> Cells<'a, 'stmt> {
    pub fn of(row: &'a Row<'stmt>) -> Self {
        Self { row, next: 0 }
    }

    pub fn take<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        let index = self.next;
        self.next += 1;
        self.row.get(index)
    }

    pub fn parsed<T>(&mut self) -> rusqlite::Result<T>
    where
        Parsed<T>: FromSql,
    {
        self.take().map(|Parsed(value)| value)
    }

    pub fn named<T>(&mut self) -> rusqlite::Result<T>
    where
        Named<T>: FromSql,
    {
        self.take().map(|Named(value)| value)
    }

    pub fn count(&mut self) -> rusqlite::Result<u64> {
        self.take().map(|Bits(count)| count)
    }

    pub fn amounts(&mut self) -> rusqlite::Result<Amounts> {
        Ok(Amounts { cost: PicoUsd(self.count()?), charge: PicoUsd(self.count()?) })
    }

    /// The two halves of [`sum_sql`], put together. The sum of no rows is zero.
    pub fn sum(&mut self) -> rusqlite::Result<i128> {
        let mut half = || self.take::<Option<i64>>().map(|sum| i128::from(sum.unwrap_or(0)));
        let (upper, lower) = (half()?, half()?);
        Ok((upper << 32) + lower)
    }

    pub fn columns(&mut self) -> rusqlite::Result<Columns> {
        Ok(Columns { cost: PicoSum(self.sum()?), charge: PicoSum(self.sum()?) })
    }
}
