package drill

import (
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/segment"
)

// A row of the matrix is an attack and what each verifier must say of it.
type row struct {
	name    string
	powers  string // what the attacker has, in one sentence
	why     string // in plain words
	want    [numKnowledge]Outcome
	says    string // what the first finding says, where it is refuted; alternatives are separated by |
	indexes bool   // verifiers recompute the indexes (--indexes)
	do      func(t *target) error
	verify  func(t *target, k Knowledge) (Outcome, string, error) // nil: the directory is verified
}

// contains says whether a text has one of the alternatives in it.
func contains(text, alternatives string) bool {
	for alternative := range strings.SplitSeq(alternatives, "|") {
		if strings.Contains(text, alternative) {
			return true
		}
	}
	return false
}

// said is the finding that is documented, where there is one, else the first.
func (t *target) said(list []immutable.Finding) string {
	for _, f := range list {
		if text := f.String(); t.says != "" && contains(text, t.says) {
			return text
		}
	}
	if len(list) == 0 {
		return ""
	}
	return list[0].String()
}

var everybody = [numKnowledge]Outcome{Refuted, Refuted, Refuted, Refuted, Refuted}

// Powers of attackers.
const (
	writes      = "can write to the log's directory; has no key"
	writesHead  = "can write to the log's directory and to this host's head; has no key"
	hasLogKey   = "has the log key, and can write to the directory and the head"
	hasKeys     = "has root on the host today: directory, head, and the keys that are there now"
	hasKeysOnly = "has a copy of today's keys and can write to the directory, but not to the head"
	hadKeys     = "took the keys of epoch 1 while they were there, and has root today"
	snapshots   = "can put the whole host, state and all, back to a snapshot"
	operates    = "runs the host, and can keep entries back or add some as they come"
)

// matrix is what the drill does, and what must come of it. docs/threat-model.md shows it.
var matrix = []row{
	{
		name:   "edit a byte of the last entry",
		powers: writes,
		why:    "The batch's commit line is not that of its entries any more, and a signed checkpoint covers it, so that no crash explains it.",
		want:   everybody,
		says:   "shorter than its checkpoint|durable",
		do:     flipInTail,
	},
	{
		name:   "edit a byte of an archive",
		powers: writes,
		why:    "Each frame has a checksum and one allowed form; behind that stand the seal and the hashes of the entries.",
		want:   everybody,
		says:   "frame 1",
		do:     flipFile("archive", segment.ArchiveSuffix, 500),
	},
	{
		name:   "edit a byte of a segment that waits to be sealed",
		powers: writes,
		why:    "A waiting segment is held to the same commit lines and checkpoints as any other.",
		want:   everybody,
		says:   "commit line differs",
		do:     editPending,
	},
	{
		name:   "edit an entry and recompute every hash",
		powers: writesHead,
		why:    "Every byte of an entry is hashed into the tree, and its root is in signed checkpoints. Who recomputes all hashes gets another root than the one that was signed.",
		want:   everybody,
		says:   "another root than the entries",
		do:     forge(rootOnly, editAt(aimed)),
	},
	{
		name:   "edit an entry and put new roots under the old signatures",
		powers: writesHead,
		why:    "A signature over another root does not fit, and without the keys there is no other.",
		want:   everybody,
		says:   "bad signature",
		do:     forge(rootForging, editAt(aimed)),
	},
	{
		name:   "edit an entry of the open segment and recompute every hash",
		powers: writesHead,
		why:    "Every byte of an entry is hashed into the tree, and its root is in signed checkpoints.",
		want:   everybody,
		says:   "another root than the entries",
		do:     forge(rootOnly, editAt(1100)),
	},
	{
		name:   "change a timestamp",
		powers: writesHead,
		why:    "Every byte of an entry is hashed into the tree, and its root is in signed checkpoints. The timestamp is one of them.",
		want:   everybody,
		says:   "another root than the entries",
		do:     forge(rootOnly, changeTime),
	},
	{
		name:   "change a level",
		powers: writesHead,
		why:    "Every byte of an entry is hashed into the tree, and its root is in signed checkpoints. The level is one of them.",
		want:   everybody,
		says:   "another root than the entries",
		do:     forge(rootOnly, changeLevel),
	},
	{
		name:   "insert an entry",
		powers: writesHead,
		why:    "The tree fixes the place of each entry; every root above the new one differs from the signed ones.",
		want:   everybody,
		says:   "another root than the entries",
		do:     forge(rootOnly, insert),
	},
	{
		name:   "delete an entry from the middle",
		powers: writesHead,
		why:    "The tree fixes the place of each entry; every root above the gap differs from the signed ones.",
		want:   everybody,
		says:   "another root than the entries",
		do:     forge(rootOnly, remove),
	},
	{
		name:   "swap two entries",
		powers: writesHead,
		why:    "The order is part of the tree, also where both entries are genuine.",
		want:   everybody,
		says:   "another root than the entries",
		do:     forge(rootOnly, reorder),
	},
	{
		name:   "swap an entry with another log's",
		powers: writesHead,
		why:    "That an entry is genuine in another log does not make it one of this log.",
		want:   everybody,
		says:   "another root than the entries",
		do:     forge(rootOnly, foreignEntry),
	},
	{
		name:   "swap a segment with another log's",
		powers: writes,
		why:    "A segment begins with the chain hash of all before it, and its seal is signed with the other log's keys.",
		want:   everybody,
		says:   "chain hash in the segment line|is not a seal",
		do:     foreignSegment,
	},
	{
		name:   "delete a segment",
		powers: writes,
		why:    "The next segment says where it begins, and the hashes of what is gone are in every root.",
		want:   everybody,
		says:   "are missing",
		do:     removeSegment,
	},
	{
		name:   "append an entry without a signature",
		powers: writes,
		why:    "Entries above the newest checkpoint look like those of a writer that has not signed yet. Nothing vouches for them: the report says up to where the log is proven. The head of a log that was closed says where it ended.",
		want:   [numKnowledge]Outcome{Unseen, Refuted, Uncovered, Uncovered, Uncovered},
		says:   "does not end where the head says",
		do:     forge(nothing, appendUnsigned),
	},
	{
		name:   "cut the tail to a commit line",
		powers: writes,
		why:    "A signed checkpoint covers more entries than are there.",
		want:   everybody,
		says:   "shorter than its checkpoint|does not end where|durable|end of the log",
		do:     cutTail,
	},
	{
		name:   "cut the tail to an earlier checkpoint",
		powers: writes,
		why:    "The log was so at that time, and was signed so: the directory and a key cannot know that there was more. Whoever knows of something later does.",
		want:   [numKnowledge]Outcome{Shorter, Refuted, Shorter, Refuted, Refuted},
		says:   "shorter than|is not there",
		do:     forge(nothing, cutToKept),
	},
	{
		name:   "cut the tail to an earlier checkpoint, and the head",
		powers: writesHead,
		why:    "What this host remembers can be changed by whoever owns the host. Only what is kept elsewhere shows it.",
		want:   [numKnowledge]Outcome{Shorter, Shorter, Shorter, Refuted, Refuted},
		says:   "shorter than|is not there",
		do:     forge(rootOnly, cutToKept),
	},
	{
		name:   "empty the log",
		powers: writes,
		why:    "As the cut to an earlier checkpoint: the first one, of no entries, is signed too. A verdict over no entries should make everybody ask.",
		want:   [numKnowledge]Outcome{Shorter, Refuted, Shorter, Refuted, Refuted},
		says:   "shorter than|is not there",
		do:     forge(nothing, empty),
	},
	{
		name:   "replace the log by another with its own keys",
		powers: writes,
		why:    "A log that is whole and has keys of its own is a good log, only not this one. Any pinned key, checkpoint or head says so.",
		want:   [numKnowledge]Outcome{Unseen, Refuted, Refuted, Refuted, Refuted},
		says:   "not the file that the head knows|does not name the pinned key|is not a checkpoint of this log",
		do:     replaceAll,
	},
	{
		name:   "put an older copy of the directory in its place",
		powers: writes,
		why:    "The copy was true when it was made. The head, which lies outside the directory, knows more, and so does everything that is kept elsewhere.",
		want:   [numKnowledge]Outcome{Shorter, Refuted, Shorter, Refuted, Refuted},
		says:   "shorter than|is not there",
		do:     rollBackDir,
	},
	{
		name:   "roll the whole host back to a snapshot",
		powers: snapshots,
		why:    "The head went back too. Only what is kept elsewhere shows it.",
		want:   [numKnowledge]Outcome{Shorter, Shorter, Shorter, Refuted, Refuted},
		says:   "shorter than|is not there",
		do:     rollBackHost,
	},
	{
		name:   "roll back and go on",
		powers: snapshots,
		why:    "The log has a second history after the snapshot, signed with its own keys. Receipts, checkpoints and witnesses know the first one.",
		want:   [numKnowledge]Outcome{Unseen, Unseen, Unseen, Refuted, Refuted},
		says:   "another root than|is not the one|chain hash differs|no signature by epoch",
		do:     goOn,
	},
	{
		name:   "show the second history to the witnesses",
		powers: snapshots,
		why:    "Each witness has cosigned the first history and refuses another. Its checkpoint and the refused one, both signed by the log, are a portable proof of misbehaviour.",
		want:   [numKnowledge]Outcome{Unseen, Unseen, Unseen, Refuted, Refuted},
		says:   "another root than|is not the one|chain hash differs|no signature by epoch|proof of misbehaviour",
		do:     goOn,
		verify: askWitnesses,
	},
	{
		name:   "damage the last batch after a crash",
		powers: "can write to the directory, and stops the host after an append was acknowledged and before a checkpoint covered it",
		why:    "It looks like a batch that never became durable, which a crash may leave, and recovery will move it aside and record that. The receipt of the append refutes it.",
		want:   [numKnowledge]Outcome{NotTold, Shorter, NotTold, Refuted, NotTold},
		says:   "is not there",
		do:     crash,
		verify: askAfterCrash,
	},
	{
		name:   "replay an old checkpoint as the newest",
		powers: writes,
		why:    "The history has a newer checkpoint than the newest. A crash may leave this, and without the head nobody knows whether there was one: no verifier calls it proven.",
		want:   [numKnowledge]Outcome{NotTold, Refuted, NotTold, NotTold, NotTold},
		says:   "is older than the last",
		do:     oldCheckpoint,
	},
	{
		name:   "remove a kept checkpoint",
		powers: writes,
		why:    "Most kept checkpoints say nothing that later ones do not say. No entry is touched; the head knows how long the history was.",
		want:   [numKnowledge]Outcome{Unseen, Refuted, Unseen, Unseen, Unseen},
		says:   "shorter than the head|head says",
		do:     dropNote(ordinary),
	},
	{
		name:   "remove a closing checkpoint",
		powers: writes,
		why:    "The checkpoint that closes an epoch hands over to the next epoch's keys; without it the later ones are signed by keys that nobody vouched for.",
		want:   everybody,
		says:   "is not a checkpoint of this log|no closing checkpoint",
		do:     dropNote(closing),
	},
	{
		name:   "swap the keys in log.json",
		powers: writesHead,
		why:    "No checkpoint is signed with the new keys.",
		want:   everybody,
		says:   "no signature by the log key",
		do:     identityChanged(swapKeys, true),
	},
	{
		name:   "backdate the log's creation",
		powers: writes,
		why:    "The moment of creation in log.json is a claim that nothing signs. It proves nothing; the head knows the file's hash.",
		want:   [numKnowledge]Outcome{Unseen, Refuted, Unseen, Unseen, Unseen},
		says:   "not the file that the head knows",
		do:     identityChanged(backdateCreation, false),
	},
	{
		name:   "strip the ML-DSA signature",
		powers: writes,
		why:    "Each checkpoint must carry the signatures of all keys of its epoch; a verifier that is told to be content with Ed25519 (--require ed25519) accepts it.",
		want:   everybody,
		says:   "ML-DSA-44 key",
		do:     resign(func(lines [][]byte) [][]byte { return lines[:2] }),
	},
	{
		name:   "strip the Ed25519 signature of the epoch",
		powers: writes,
		why:    "Each checkpoint must carry the signatures of all keys of its epoch.",
		want:   everybody,
		says:   "Ed25519 key",
		do:     resign(func(lines [][]byte) [][]byte { return [][]byte{lines[0], lines[2]} }),
	},
	{
		name:   "strip all signatures",
		powers: writes,
		why:    "A log that was made with keys has no unsigned checkpoints.",
		want:   everybody,
		says:   "malformed note",
		do:     resign(func([][]byte) [][]byte { return nil }),
	},
	{
		name:   "rewrite the log with the stolen log key only",
		powers: hasLogKey,
		why:    "The log key introduces the log to witnesses. Alone it proves nothing: the keys of the epochs must have signed too.",
		want:   everybody,
		says:   "no signature by epoch 0's|no signature by epoch 1's|no signature by epoch 2's",
		do:     forge(logKeyOnly, editAt(aimed)),
	},
	{
		name:   "rewrite the past with the stolen current keys",
		powers: hasKeys,
		why:    "Today's keys do not sign the sizes of earlier epochs, and the keys of those are destroyed.",
		want:   everybody,
		says:   "no signature by epoch 0's|signed by a key of another epoch",
		do:     forge(currentKeysForAll, editAt(aimed)),
	},
	{
		name:   "fork from the epoch's start with the stolen current keys",
		powers: hasKeys,
		why:    "What the current keys sign, their thief can sign otherwise, back to the closing checkpoint of the epoch before. Against that stand receipts, checkpoints kept elsewhere, and witnesses.",
		want:   [numKnowledge]Outcome{Unseen, Unseen, Unseen, Refuted, Refuted},
		says:   "another root than|is not the one|chain hash differs|no signature by epoch",
		do:     forge(currentKeysAndRoot, afterEpoch),
	},
	{
		name:   "the same without access to the head",
		powers: hasKeysOnly,
		why:    "The head remembers the root that this host signed.",
		want:   [numKnowledge]Outcome{Unseen, Refuted, Unseen, Refuted, Refuted},
		says:   "another root than|is not the one|chain hash differs|root that this host signed",
		do:     forge(currentKeys, afterEpoch),
	},
	{
		name:   "fork with the stolen keys of an older epoch",
		powers: hadKeys,
		why:    "Destroying keys helps only if nobody took them before. Their thief can fork where their epoch began, and make the keys of later epochs himself. What was kept elsewhere since refutes it.",
		want:   [numKnowledge]Outcome{Unseen, Unseen, Unseen, Refuted, Refuted},
		says:   "another root than|is not the one|chain hash differs|no signature by epoch",
		do:     forge(rootForging, olderEpoch),
	},
	{
		name:   "take the log over with the stolen current keys",
		powers: hasKeys,
		why:    "The thief rotates to keys of his own and goes on: the past stands, and from there on the log is his. Receipts and witnesses say up to where the log is proven; whoever sees a rotation that nobody made should ask.",
		want:   [numKnowledge]Outcome{Unseen, Unseen, Unseen, Uncovered, Uncovered},
		do:     forge(currentKeysAndRoot, takeOver),
	},
	{
		name:   "forge a line of the chain of keys",
		powers: writes,
		why:    "The file is derived from the entries and the closing checkpoints, and compared with them byte for byte.",
		want:   everybody,
		says:   "the line of epoch 1 is not what",
		do:     forgeEpochs,
	},
	{
		name:   "edit an index",
		powers: writes,
		why:    "The seal has the index's hash, and --indexes recomputes it. The entries themselves stand.",
		want:   everybody,
		says:   "is not what the entries give|SHA-256",
		do:     flipFile("index", segment.IndexSuffix, 50),
	},
	{
		name:    "edit an index and seal it again",
		powers:  hasKeysOnly,
		why:     "Whoever has the keys can sign a false index; recomputed from the entries (--indexes) it is another one.",
		want:    everybody,
		says:    "is not what the entries give",
		do:      resealed(flipFile("index", segment.IndexSuffix, 50)),
		indexes: true,
	},
	{
		name:   "edit a search index",
		powers: writes,
		why:    "As with the index. A search checks each page that it uses against the seal, too.",
		want:   everybody,
		says:   "is not what the entries give|SHA-256",
		do:     flipFile("index", segment.SearchSuffix, 900),
	},
	{
		name:    "edit a search index and seal it again",
		powers:  hasKeysOnly,
		why:     "As with the index.",
		want:    everybody,
		says:    "is not what the entries give|does not fit",
		do:      resealed(flipFile("index", segment.SearchSuffix, 900)),
		indexes: true,
	},
	{
		name:   "hide bytes between the frames of an archive",
		powers: writes,
		why:    "Each frame's form is checked to its last byte, so nothing fits between; and the seal has the archive's hash.",
		want:   everybody,
		says:   "after the last block",
		do:     hideBytes,
	},
	{
		name:   "hide bytes in an archive and seal it again",
		powers: hasKeysOnly,
		why:    "The seal is good, the form of the frame is not.",
		want:   everybody,
		says:   "after the last block",
		do:     resealed(hideBytes),
	},
	{
		name:   "remove the cosignatures",
		powers: writes,
		why:    "Cosignatures are added evidence and may be deleted. No entry is touched, and the witnesses still say what they saw: a verifier asks them.",
		want:   [numKnowledge]Outcome{Unseen, Unseen, Unseen, Unseen, Unseen},
		do:     stripCosignatures,
	},
	{
		name:   "forge a cosignature",
		powers: writes,
		why:    "Who does not know the witness's key cannot judge its signature, and counts it for nothing. Who knows it refutes the file.",
		want:   [numKnowledge]Outcome{Unseen, Unseen, Unseen, Unseen, Refuted},
		says:   "bad signature by known key",
		do:     forgeCosignature,
	},
	{
		name:   "backdate a time stamp",
		powers: writes,
		why:    "The authority's signature does not fit any more, and the anchor entry has the file's hash.",
		want:   everybody,
		says:   "is not a time stamp|SHA-256",
		do:     backdateStamp,
	},
	{
		name:   "remove a time stamp that an entry names",
		powers: writes,
		why:    "The anchor entry in the log names the file and its hash.",
		want:   everybody,
		says:   "is missing",
		do:     removeStamp,
	},
	{
		name:   "forge a time stamp with the stolen current keys",
		powers: hasKeys,
		why:    "The thief writes an anchor for a stamp by an authority of his own. Nobody who did not name that authority counts it, but only what is kept elsewhere shows that there was another entry.",
		want:   [numKnowledge]Outcome{Unseen, Unseen, Unseen, Refuted, Refuted},
		says:   "another root than|is not the one|chain hash differs|no signature by epoch",
		do:     forge(currentKeysAndRoot, ownAnchor),
	},
	{
		name:   "date entries ahead",
		powers: hasKeys,
		why:    "A log's own clock proves nothing. An authority that stamped the checkpoint today cannot have seen an entry of tomorrow: a verifier that trusts the authority flags the entry.",
		want:   [numKnowledge]Outcome{Unseen, Unseen, Unseen, Uncovered, Clock},
		do:     forge(currentKeysAndRoot, dateAhead),
	},
	{
		name:   "keep a source's entry from the log",
		powers: operates,
		why:    "Nothing is wrong with the log, and an entry is not there. The source numbered what it signed: as soon as a later one comes, the number between is missing, and is named.",
		want:   [numKnowledge]Outcome{Incomplete, Incomplete, Incomplete, Incomplete, Incomplete},
		do:     dropSigned,
	},
	{
		name:   "invent an entry in a source's name",
		powers: operates,
		why:    "The log holds what it was given. The entry's signature is not the source's, and it is counted as bad.",
		want:   [numKnowledge]Outcome{Incomplete, Incomplete, Incomplete, Incomplete, Incomplete},
		do:     inventSigned,
	},
	{
		name:   "edit a bundle",
		powers: "passes an evidence bundle on",
		why:    "The bundle has the proof of each of its entries under a signed checkpoint.",
		want:   [numKnowledge]Outcome{Refuted, NoSuch, Refuted, Refuted, Refuted},
		says:   "the entry is not the one that the log holds",
		do:     noDirectory,
		verify: askBundle(editedBundle),
	},
	{
		name:   "make a bundle of another log",
		powers: "makes a log of the same name with keys of its own",
		why:    "A bundle brings its own keys, which agree with it. Only a key from elsewhere tells whose they are; without one, a checkpoint of another size and witnesses that did not sign leave it open.",
		want:   [numKnowledge]Outcome{Unseen, NoSuch, Refuted, NotTold, NotTold},
		says:   "pinned key",
		do:     noDirectory,
		verify: askBundle(otherBundle),
	},
	{
		name:   "edit an exported tile",
		powers: "serves an export to clients of transparency logs",
		why:    "The export's checkpoint covers every tile and every entry. Clients know the log by its log key.",
		want:   [numKnowledge]Outcome{Refuted, NoSuch, Refuted, NoSuch, NoSuch},
		says:   "tile/",
		do:     editTile,
		verify: askTiles,
	},
	{
		name:   "edit an event in a SIEM's copy",
		powers: "runs the system that a copy of the log was sent to",
		why:    "Each event of the copy names its entry and its leaf hash. Compared with the log (`immutable verify --from`) its content must be the entry's.",
		want:   everybody,
		says:   "the entry was changed at message",
		do:     untouched,
		verify: askCopy(editEvent),
	},
	{
		name:   "delete events from a SIEM's copy",
		powers: "runs the system that a copy of the log was sent to",
		why:    "The log says which entries lie between the first and the last event of the copy; that its tail is missing shows where all of the log was to be sent.",
		want:   everybody,
		says:   "are missing",
		do:     untouched,
		verify: askCopy(deleteEvents),
	},
	{
		name:   "forge a proof",
		powers: "hands out a proof of an entry with another path to the root",
		why:    "The path must lead from the entry to the root of the signed checkpoint. The log is intact: it is the proof that is refuted.",
		want:   everybody,
		says:   "the entry is not the one that this proof is of",
		do:     untouched,
		verify: askForgedProof,
	},
	{
		name:   "forge a receipt",
		powers: "hands out a receipt for an entry that the log never took",
		why:    "A receipt has no signature: verification shows that log and receipt contradict each other, and not which one lies. A proof (`immutable prove`) is signed.",
		want:   everybody,
		says:   "the entry is not the one that was acknowledged",
		do:     untouched,
		verify: askForgedReceipt,
	},
	{
		name:   "accuse an honest log of a fork",
		powers: "hands out a made-up proof of misbehaviour",
		why:    "A proof of misbehaviour must lead from the entries of one signed checkpoint to the root of the other. For two of one history there is none. It is judged with the log's keys alone.",
		want:   [numKnowledge]Outcome{NoSuch, NoSuch, Refuted, NoSuch, NoSuch},
		says:   "newer root differs",
		do:     untouched,
		verify: askAccusation,
	},
}
