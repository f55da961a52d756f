//! Redis Cluster's division of all keys into slots (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).

/// The slot of a key: CRC16 (XMODEM) of what stands between its first `{` and the next `}`, or of all of it.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = || {
        let rest = &key[key.iter().position(|byte| *byte == b'{')? + 1..];
        let tag = &rest[..rest.iter().position(|byte| *byte == b'}')?];
        (!tag.is_empty()).then_some(tag)
    };
    let crc = tag().unwrap_or(key).iter().fold(0, |crc: u16, byte| (crc << 8) ^ CRC16[usize::from((crc >> 8) ^ u16::from(*byte))]);
    crc % 16_384
}

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut at: u16 = 0;
    while at < 256 {
        let (mut crc, mut bit) = (at << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[at as usize] = crc;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use redis::cluster_routing::{Route, SlotAddr};

    use super::slot;

    #[test]
    fn a_key_has_the_slot_that_the_cluster_gives_it() {
        assert_eq!(slot(b"123456789"), 0x31C3); // the specification's example
        for key in ["", "a", "{a", "{}a", "{a}b", "a{b}c}d", "x{{y}}z", "fengda:{acme-shop/u%2F1}:s:default", "蜂{答}"] {
            assert_eq!(Route::new(slot(key.as_bytes()), SlotAddr::Master), Route::with_key(key, SlotAddr::Master), "{key}");
        }
    }
}
