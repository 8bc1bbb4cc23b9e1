package event

// The common actions. A source that has something else to say makes a word of the same form: what is acted on, a dot, the verb.
const (
	ActionLogin         = "user.login"
	ActionLogout        = "user.logout"
	ActionLockout       = "user.lockout"
	ActionUnlock        = "user.unlock"
	ActionMFA           = "user.mfa" // a second factor was asked for and answered
	ActionMFAEnroll     = "user.mfa.enroll"
	ActionMFARemove     = "user.mfa.remove"
	ActionPasswordSet   = "user.password.change"
	ActionUserCreate    = "user.create"
	ActionUserUpdate    = "user.update"
	ActionUserDelete    = "user.delete"
	ActionUserInvite    = "user.invite"
	ActionSessionOpen   = "session.open"
	ActionSessionClose  = "session.close"
	ActionTokenIssue    = "token.issue"
	ActionTokenRefresh  = "token.refresh"
	ActionTokenRevoke   = "token.revoke"
	ActionTokenUse      = "token.use"
	ActionPrivilege     = "privilege.use" // sudo, su, an assumed role
	ActionPrivilegeGive = "privilege.grant"
	ActionPrivilegeTake = "privilege.revoke"
	ActionPrivilegeSet  = "privilege.change"

	ActionGroupCreate  = "group.create"
	ActionGroupDelete  = "group.delete"
	ActionGroupAdd     = "group.member.add"
	ActionGroupRemove  = "group.member.remove"
	ActionRoleAssign   = "role.assign"
	ActionRoleUnassign = "role.unassign"

	ActionObjectCreate  = "object.create"
	ActionObjectRead    = "object.read"
	ActionObjectList    = "object.list"
	ActionObjectWatch   = "object.watch"
	ActionObjectUpdate  = "object.update"
	ActionObjectDelete  = "object.delete"
	ActionObjectExecute = "object.execute" // a command in it, or the thing itself
	ActionObjectConnect = "object.connect" // a channel to it: a shell, a forwarded port, a proxy
	ActionObjectShare   = "object.share"

	ActionHTTPRequest  = "http.request"  // somebody asked us
	ActionHTTPCall     = "http.call"     // we asked somebody
	ActionModelRequest = "model.request" // of an AI model
	ActionRPCCall      = "rpc.call"

	ActionQuery    = "database.query"
	ActionExec     = "database.exec"
	ActionBegin    = "database.begin"
	ActionCommit   = "database.commit"
	ActionRollback = "database.rollback"

	ActionFileCreate     = "file.create"
	ActionFileRead       = "file.read"
	ActionFileWrite      = "file.write"
	ActionFileRename     = "file.rename"
	ActionFileDelete     = "file.delete"
	ActionFilePermission = "file.permission"

	ActionConfigChange = "configuration.change"
	ActionConfigRead   = "configuration.read"

	ActionProcessStart = "process.start"
	ActionProcessStop  = "process.stop"
	ActionProcessPanic = "process.panic"
	ActionServiceStart = "service.start"
	ActionServiceStop  = "service.stop"

	ActionDeploy   = "deployment.create"
	ActionRelease  = "release.create"
	ActionRollBack = "deployment.rollback"
	ActionBuild    = "build.run"

	ActionCommitPush    = "commit.push"
	ActionContentCreate = "content.create"
	ActionContentUpdate = "content.update"
	ActionContentDelete = "content.delete"

	ActionCharge       = "payment.charge"
	ActionRefund       = "payment.refund"
	ActionDispute      = "payment.dispute"
	ActionPayout       = "payment.payout"
	ActionInvoice      = "invoice.update"
	ActionSubscription = "subscription.update"

	ActionAlert    = "alert.raise"
	ActionFinding  = "finding.create"
	ActionRejected = "source.rejected" // what came could not be believed or read

	ActionLogRead   = "log.read"
	ActionLogExport = "log.export"
	ActionLogVerify = "log.verify"

	ActionConnect    = "network.connect"
	ActionDisconnect = "network.disconnect"
	ActionMessage    = "message" // a line of which nothing more is known
)
