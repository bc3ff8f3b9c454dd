package envelope

// Slots is the number of slots that names hash to; a power of two.
const Slots = 1024

// Groups is the number of groups that slots fall into; a power of two no
// larger than the smallest production P, so that a group owns whole partitions.
const Groups = 16

// SlotOf returns the slot of a session: of the agent's name, or, for a session
// without a name, of its id in hex. It is (murmur2(UTF-8) & 0x7fffffff) mod
// 1024, as Kafka's Java client hashes keys ("foobar" → 958, "21" → 236).
func SlotOf(agent string, id SessionID) int32 {
	if agent == "" {
		agent = id.String()
	}
	return int32(murmur2([]byte(agent)) & 0x7fffffff % Slots)
}

// PartitionOf returns the partition of a slot among p partitions.
func PartitionOf(slot, p int32) int32 { return slot % p }

// GroupOf returns the group of a slot: the value of the moorage-group header.
func GroupOf(slot int32) int32 { return slot % Groups }

// murmur2 is Austin Appleby's MurmurHash2, 32 bit, with the seed of Kafka's
// Utils.murmur2.
func murmur2(data []byte) uint32 {
	const m = 0x5bd1e995
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> 24
		k *= m
		h = h*m ^ k
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(data[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
