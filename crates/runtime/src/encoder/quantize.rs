//! Weights in eight bits: symmetric, with a scale for each output of a matrix or for each row of a table.
//!
//! Source of the scheme: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
//! Inference", CVPR 2018; a scale per channel: Krishnamoorthi, arXiv 1806.08342.

/// The largest weight of a matrix. An activation has eight bits without a sign, and AVX2's `vpmaddubsw` adds two products in
/// 16 bits with one: 2 * 255 * 64 = 32,640 is the most that cannot saturate (32,767). Where the CPU has VNNI it would not, but
/// one file is for all.
pub(super) const MATRIX_MAX: f32 = 64.0;
/// Tables are only looked up.
pub(super) const TABLE_MAX: f32 = 127.0;

pub(super) struct Quantized {
    pub values: Vec<i8>,
    /// By channel: what one step of its values stands for.
    pub scales: Vec<f32>,
}

/// A matrix of `columns` outputs, row by row: each column has its scale.
pub(super) fn by_column(matrix: &[f32], columns: usize) -> Quantized {
    let mut largest = vec![0_f32; columns];
    for row in matrix.chunks_exact(columns) {
        for (largest, value) in largest.iter_mut().zip(row) {
            *largest = largest.max(value.abs());
        }
    }
    let scales: Vec<f32> = largest.into_iter().map(|largest| scale(largest, MATRIX_MAX)).collect();
    let values = matrix
        .chunks_exact(columns)
        .flat_map(|row| row.iter().zip(&scales).map(|(value, scale)| step(*value, *scale, MATRIX_MAX)))
        .collect();
    Quantized { values, scales }
}

/// A table, each row with its scale.
pub(super) fn by_row(table: &[f32], columns: usize) -> Quantized {
    let rows = table.chunks_exact(columns);
    let scales: Vec<f32> = rows
        .clone()
        .map(|row| scale(row.iter().fold(0_f32, |largest, value| largest.max(value.abs())), TABLE_MAX))
        .collect();
    let values =
        rows.zip(&scales).flat_map(|(row, scale)| row.iter().map(|value| step(*value, *scale, TABLE_MAX))).collect();
    Quantized { values, scales }
}

/// A channel of nothing but zeros has steps of one: any would do, but zero times zero must not become a NaN.
fn scale(largest: f32, max: f32) -> f32 {
    let scale = largest / max;
    if scale.is_normal() { scale } else { 1.0 }
}

fn step(value: f32, scale: f32, max: f32) -> i8 {
    #[expect(clippy::cast_possible_truncation, reason = "clamped to what fits")]
    let step = (value / scale).round_ties_even().clamp(-max, max) as i8;
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_is_stretched_to_what_cannot_saturate() {
        let quantized = by_column(&[0.5, -8.0, -1.0, 4.0, 0.25, 0.0], 2);
        assert_eq!(quantized.values, [32, -64, -64, 32, 16, 0]);
        assert_eq!(quantized.scales, [1.0 / 64.0, 8.0 / 64.0]);
        assert!(2.0 * 255.0 * MATRIX_MAX <= f32::from(i16::MAX));
    }

    #[test]
    fn a_row_of_zeros_stays_zeros() {
        let quantized = by_row(&[0.0, 0.0, 2.0, -1.0], 2);
        assert_eq!(quantized.values, [0, 0, 127, -64]);
        assert_eq!(quantized.scales[0], 1.0);
    }
}
