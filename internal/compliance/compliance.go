// Package compliance says, control by control, what a log proves by itself, what it supports, what a person must attest, and what it
// cannot show. The texts are paraphrases, and no legal advice. Pure: the evidence behind them is collected by the server.
package compliance

// Statement stands on everything that is made of this table.
const Statement = "The log proves that what it was given was not changed, removed or reordered since. It cannot prove that a source sent everything, nor that what it sent was true. " +
	"What is here supports a judgement; it is none, and no legal advice."

// Control is one requirement, paraphrased.
type Control struct {
	ID       string   `json:"id"`
	Requires string   `json:"requires"`
	Proves   string   `json:"proves"`   // what the log shows by itself, re-computable from evidence; may be nothing
	Supports string   `json:"supports"` // facts that the log holds, for a person to judge
	Attests  string   `json:"attests"`  // what a person must vouch for
	Cannot   string   `json:"cannot"`   // what it cannot show
	Evidence []string `json:"evidence"` // of Evidences
}

// Framework is a list of controls.
type Framework struct {
	ID       string    `json:"id"`
	Title    string    `json:"title"`
	Controls []Control `json:"controls"`
}

// The evidence that controls rest on. Each is collected from the tenant as it stands.
const (
	Integrity    = "integrity"    // the last verifications
	Signatures   = "signatures"   // checkpoints and epochs of keys
	Witnesses    = "witnesses"    // cosignatures of others
	Watch        = "watch"        // that changes of files are noticed
	Alerts       = "alerts"       // rules, receivers, what was raised
	Reads        = "reads"        // who read the log
	Lifecycle    = "lifecycle"    // starts, stops, new logs
	Admin        = "admin"        // changes of settings, tokens, keys
	Roles        = "roles"        // who may do what
	Logins       = "logins"       // authentication, as sources tell it
	Accounts     = "accounts"     // accounts and rights, as sources tell it
	Denied       = "denied"       // what was refused
	Objects      = "objects"      // what was made, changed and deleted
	Changes      = "changes"      // deployments and configuration
	Completeness = "completeness" // entries that say who, what, from where, how it ended
	Sources      = "sources"      // what sends, and when last
	Retention    = "retention"    // how long, and what is retired
	Holds        = "holds"        // legal holds
	Copies       = "copies"       // where entries go on to
	Reviews      = "reviews"      // days that somebody signed
	Clock        = "clock"        // steps of the clock, time stamps
)

// Evidences are all of them, by title.
var Evidences = map[string]string{
	Integrity: "Verifications", Signatures: "Signed checkpoints", Witnesses: "Witnesses", Watch: "File watch", Alerts: "Alerts", Reads: "Reads of the logs", Lifecycle: "Starts, stops and new logs",
	Admin: "Administration", Roles: "Tokens by role", Logins: "Logins", Accounts: "Accounts and rights", Denied: "Refused attempts", Objects: "Objects made, changed, deleted", Changes: "Deployments and configuration",
	Completeness: "Entries with who, what, where and how", Sources: "Sources", Retention: "Retention", Holds: "Legal holds", Copies: "Copies elsewhere", Reviews: "Daily reviews", Clock: "Clock",
}

const (
	wholeLog = "From one checkpoint to the next nothing was changed, removed or reordered: recomputed by the last verification, signed with keys that are destroyed after use, cosigned by witnesses where there are some."
	nothing  = "Nothing by itself."
)

// Frameworks is the table. Sources: PCI DSS v4.0.1 (June 2024), requirement 10; AICPA Trust Services Criteria 2017 with the points of
// focus of 2022; Regulation (EU) 2016/679.
func Frameworks() []Framework { return []Framework{pci, soc2, gdpr} }

var pci = Framework{"pci", "PCI DSS 4.0.1, requirement 10", []Control{
	{"10.2.1", "Audit logs are on and active for all system components and cardholder data.", nothing, "When each source was last heard of, and what was refused of it.", "That the list of sources is whole.", "A component that nobody connected.", []string{Sources, Alerts}},
	{"10.2.1.1", "All access of individual users to cardholder data.", nothing, "Reads and exports that the sources report, by actor.", "Which objects hold cardholder data.", "Access on a path that reports nothing.", []string{Objects, Completeness}},
	{"10.2.1.2", "All actions by anyone with administrative access.", "Administration of this log itself is recorded before it happens.", "Actions of administrators that sources report, and the rights they had then.", "That accounts are not shared.", "Who sat at a shared account.", []string{Admin, Accounts}},
	{"10.2.1.3", "All access to audit logs.", "Every read, search and export through this service is an entry, written before the answer leaves.", "Who read what, with which query, and how many entries.", "Who may read the disks and the copies.", "Reads of the raw disk, or of copies elsewhere.", []string{Reads, Roles}},
	{"10.2.1.4", "All invalid logical access attempts.", "Refused authentication to this service is recorded.", "Failed logins and refused attempts that sources report.", "That sources report failures.", "Attempts on a source that logs success only.", []string{Logins, Denied}},
	{"10.2.1.5", "Changes to identification and authentication credentials.", "Tokens of this service: made, revoked, expired.", "Accounts, groups and rights that sources report as changed.", "That identity providers are connected.", "Changes that no source reports.", []string{Accounts, Admin}},
	{"10.2.1.6", "Initialization of new audit logs, and starting, stopping or pausing of existing ones.", "Starts, stops, new logs, and gaps of this service; a start without a stop before it was a crash.", "Sources that were switched off or removed.", "Logs that are kept at the sources.", "A local log that was stopped where nobody reports it.", []string{Lifecycle, Sources}},
	{"10.2.1.7", "Creation and deletion of system-level objects.", nothing, "Objects, files and processes that sources report as made and deleted.", "That operating systems are connected.", "What no source reports.", []string{Objects}},
	{"10.2.2", "Each event has user, type, date and time, success or failure, origin, and what was affected.", "How many entries have these members: counted. A catalogue refuses those that have not, where one is set.", "The values themselves.", "That a catalogue is set for the types that matter.", "That the values are true.", []string{Completeness}},
	{"10.3.1", "Read access to audit logs is limited to those with a job-related need.", "Who read: from the records of reads.", "Which tokens may read, and in which role.", "That each has the need.", "Access outside this service.", []string{Roles, Reads}},
	{"10.3.2", "Audit log files are protected from modification by individuals.", wholeLog, "Who administers the service.", "That the host is administered by few.", "That modification is prevented: it is detected. For prevention add write-once storage.", []string{Integrity, Signatures, Witnesses}},
	{"10.3.3", "Audit logs are promptly backed up to a secure, central log server that is difficult to modify.", "Sources send here as things happen; entries are on the disk before they are acknowledged.", "Copies that go on to others, and how far they are behind.", "Where copies and backups lie.", "That they are physically apart.", []string{Copies, Sources}},
	{"10.3.4", "File integrity monitoring or change detection on audit logs, so that existing data cannot change without an alert.", "Files are watched, re-read and verified; what is found is raised as an alert and recorded.", "To whom alerts go, and whether they arrived.", "That somebody reads them.", "A change while the service is off, until it verifies again.", []string{Integrity, Watch, Alerts}},
	{"10.4.1", "Audit logs are reviewed at least once daily.", "Which days were signed, by whom, and what they were shown.", "The findings of each day, and a sample that the reviewer did not choose.", "The quality of the review.", "That somebody read what they signed for.", []string{Reviews, Alerts}},
	{"10.5.1", "History is kept for at least 12 months, the last three at once available.", "The oldest entry that is there, and that nothing between was removed.", "The retention that is set, and what was retired with a tombstone.", "The retention of copies.", "What will be kept in the future.", []string{Retention, Holds, Integrity}},
	{"10.6.1", "Clocks are synchronized; changes of time are logged.", "Steps of this log's clock are entries; time stamps of authorities bracket it where they are set.", "How far sources' own times are from it.", "The architecture of time synchronization.", "That the clock of a source is right.", []string{Clock}},
	{"10.7.2", "Failures of critical security controls are detected, alerted and addressed promptly.", "Failures of this log's own mechanisms: when they began and ended, and when an alert was sent.", "Alerts that are open.", "That they are addressed, and how.", "Failures of other controls, unless they report here.", []string{Alerts, Lifecycle}},
}}

var soc2 = Framework{"soc2", "SOC 2 (Trust Services Criteria 2017)", []Control{
	{"CC6.1", "Logical access security over protected information assets.", nothing, "Logins, rights, refused attempts, and who may do what here.", "The design of access control.", "Systems that report nothing.", []string{Logins, Accounts, Roles}},
	{"CC6.2", "Users are registered and authorized before they get credentials, and removed when access ends.", "Tokens of this service: who made and revoked them, and when.", "Accounts that sources report as made and deleted.", "That each was authorized.", "Accounts that no source reports.", []string{Accounts, Admin}},
	{"CC6.3", "Access is authorized, modified or removed by role and responsibility.", nothing, "Roles and rights that were given and taken.", "That they fit the responsibility.", "The reasons.", []string{Accounts, Roles}},
	{"CC6.6", "Measures against threats from outside the boundaries.", nothing, "Refused attempts and their addresses.", "The perimeter's design.", "What the perimeter stopped without reporting.", []string{Denied, Logins}},
	{"CC7.1", "Changes of configuration that introduce vulnerabilities are detected.", nothing, "Changed settings and files, with digests before and after where a source has them.", "That new vulnerabilities are looked for.", "Changes on hosts that are not watched.", []string{Changes}},
	{"CC7.2", "Components are monitored for anomalies that indicate malicious acts, and these are analysed.", "That verifications and saved queries ran, and what they found.", "Findings of each day, and alerts.", "That detection fits the threats.", "What no query looks for.", []string{Alerts, Reviews, Integrity}},
	{"CC7.3", "Security events are evaluated.", "When a day was signed, and by whom.", "The notes of reviews.", "The judgement.", "What was discussed elsewhere.", []string{Reviews}},
	{"CC7.4", "Incidents are responded to by a defined programme.", nothing, "The order of events, over all logs.", "The programme, and that it was followed.", "What was done outside of what reports here.", []string{Alerts, Objects}},
	{"CC8.1", "Changes are authorized, tested, approved and implemented.", nothing, "Commits, deployments, rollbacks and changed settings.", "That they were approved.", "Changes made by hand on a host that is not watched.", []string{Changes}},
}}

var gdpr = Framework{"gdpr", "GDPR", []Control{
	{"5(1)(f)", "Integrity and confidentiality of personal data.", wholeLog, "Who read the logs, and who may.", "That measures fit the risk.", "Personal data outside these logs.", []string{Integrity, Reads, Roles}},
	{"5(2)", "Accountability: the controller can demonstrate compliance.", "Each administrative act and each read is an entry that cannot be changed unnoticed.", "Reviews and their notes.", "The measures themselves.", "What was never recorded.", []string{Admin, Reviews}},
	{"17", "Erasure without undue delay, with its exceptions.", "Segments that were retired, with a tombstone that says what, when and by whom.", "Legal holds that stand against it.", "Whether an exception applies.", "Copies elsewhere. Until entries are encrypted a single one cannot be erased: keep personal data out of them, or keep them for a short time.", []string{Retention, Holds}},
	{"30", "Records of processing activities.", nothing, "To whom entries go on, and which sources send what.", "Purposes and legal bases.", "Processing that reports nothing here.", []string{Copies, Sources}},
	{"32(1)(b)", "Ongoing confidentiality, integrity, availability and resilience.", wholeLog, "Alerts, starts and stops, refused access.", "The measures around it.", "Systems that do not report here.", []string{Integrity, Lifecycle, Alerts}},
	{"32(1)(d)", "Regular testing of the measures.", "That verifications ran, when, and with what result.", "Reviews that were signed.", "Restore drills, which docs/operations.md describes.", "Tests of other systems.", []string{Integrity, Reviews}},
	{"33", "Notification of a breach within 72 hours, and its documentation.", nothing, "The order of events, and when alerts were sent.", "When somebody became aware.", "Awareness itself.", []string{Alerts, Reviews}},
}}
