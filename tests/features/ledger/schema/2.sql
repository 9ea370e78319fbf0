-- sqlite
CREATE TABLE outcome ( id TEXT NOT NULL, key_kind TEXT NOT NULL, "key" BIGINT NOT NULL, name TEXT NOT NULL, value DOUBLE NOT NULL, event_time DOUBLE NOT NULL, ingest_time DOUBLE NOT NULL, source TEXT DEFAULT '' NOT NULL, supersedes TEXT, PRIMARY KEY (id) )
CREATE TRIGGER outcome_UPDATE BEFORE UPDATE ON outcome BEGIN SELECT RAISE(ABORT, 'rows of outcome are kept as they are'); END
CREATE TRIGGER outcome_DELETE BEFORE DELETE ON outcome BEGIN SELECT RAISE(ABORT, 'rows of outcome are kept as they are'); END
CREATE INDEX outcome_of_key ON outcome (key_kind, "key", name, event_time)
CREATE INDEX outcome_of_name ON outcome (name, event_time)
CREATE UNIQUE INDEX outcome_superseded ON outcome (supersedes)
CREATE TABLE release ( id TEXT NOT NULL, model TEXT NOT NULL, stable TEXT NOT NULL, canary TEXT NOT NULL, alias TEXT NOT NULL, salt TEXT NOT NULL, policy TEXT DEFAULT '{}' NOT NULL, state TEXT NOT NULL, stage INTEGER DEFAULT '0' NOT NULL, weight DOUBLE DEFAULT '0' NOT NULL, evidence TEXT DEFAULT '{}' NOT NULL, progress TEXT DEFAULT '{}' NOT NULL, revision INTEGER DEFAULT '0' NOT NULL, reason TEXT DEFAULT '' NOT NULL, created DOUBLE NOT NULL, "by" TEXT NOT NULL, why TEXT DEFAULT '' NOT NULL, changed DOUBLE NOT NULL, ended DOUBLE, PRIMARY KEY (id) )
CREATE INDEX release_of_model ON release (model, created)
CREATE TABLE bucket ( release TEXT NOT NULL, seq BIGINT NOT NULL, body TEXT DEFAULT '{}' NOT NULL, PRIMARY KEY (release, seq), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TRIGGER bucket_UPDATE BEFORE UPDATE ON bucket BEGIN SELECT RAISE(ABORT, 'rows of bucket are kept as they are'); END
CREATE TRIGGER bucket_DELETE BEFORE DELETE ON bucket BEGIN SELECT RAISE(ABORT, 'rows of bucket are kept as they are'); END
CREATE TABLE decision ( release TEXT NOT NULL, seq BIGINT NOT NULL, inputs TEXT NOT NULL, body TEXT DEFAULT '{}' NOT NULL, actor TEXT NOT NULL, time DOUBLE NOT NULL, PRIMARY KEY (release, seq), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TRIGGER decision_UPDATE BEFORE UPDATE ON decision BEGIN SELECT RAISE(ABORT, 'rows of decision are kept as they are'); END
CREATE TRIGGER decision_DELETE BEFORE DELETE ON decision BEGIN SELECT RAISE(ABORT, 'rows of decision are kept as they are'); END
CREATE TABLE exposure ( release TEXT NOT NULL, unit BIGINT NOT NULL, arm TEXT NOT NULL, stage INTEGER NOT NULL, propensity DOUBLE NOT NULL, time DOUBLE NOT NULL, is_first INTEGER NOT NULL, segment TEXT DEFAULT '{}' NOT NULL, PRIMARY KEY (release, unit, arm), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TRIGGER exposure_UPDATE BEFORE UPDATE ON exposure BEGIN SELECT RAISE(ABORT, 'rows of exposure are kept as they are'); END
CREATE INDEX exposure_of_release ON exposure (release, time)
CREATE TABLE first_event ( release TEXT NOT NULL, metric TEXT NOT NULL, unit BIGINT NOT NULL, arm TEXT NOT NULL, time DOUBLE NOT NULL, PRIMARY KEY (release, metric, unit), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TRIGGER first_event_UPDATE BEFORE UPDATE ON first_event BEGIN SELECT RAISE(ABORT, 'rows of first_event are kept as they are'); END
CREATE TABLE prediction ( request BIGINT NOT NULL, release TEXT NOT NULL, arm TEXT NOT NULL, unit BIGINT NOT NULL, stage INTEGER NOT NULL, propensity DOUBLE NOT NULL, time DOUBLE NOT NULL, PRIMARY KEY (request, release), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TRIGGER prediction_UPDATE BEFORE UPDATE ON prediction BEGIN SELECT RAISE(ABORT, 'rows of prediction are kept as they are'); END
CREATE INDEX prediction_of_release ON prediction (release, time)
CREATE INDEX prediction_of_unit ON prediction (release, unit)
CREATE TABLE wish ( id INTEGER NOT NULL, release TEXT NOT NULL, what TEXT NOT NULL, "by" TEXT NOT NULL, why TEXT DEFAULT '' NOT NULL, time DOUBLE NOT NULL, done DOUBLE, answer TEXT DEFAULT '' NOT NULL, PRIMARY KEY (id), FOREIGN KEY(release) REFERENCES release (id) )
CREATE INDEX wish_open ON wish (done, id)
-- postgresql
CREATE OR REPLACE FUNCTION salver_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'rows of % are kept as they are', TG_TABLE_NAME; END $$
CREATE TABLE outcome ( id TEXT NOT NULL, key_kind TEXT NOT NULL, key BIGINT NOT NULL, name TEXT NOT NULL, value DOUBLE PRECISION NOT NULL, event_time DOUBLE PRECISION NOT NULL, ingest_time DOUBLE PRECISION NOT NULL, source TEXT DEFAULT '' NOT NULL, supersedes TEXT, PRIMARY KEY (id) )
CREATE TRIGGER outcome_UPDATE BEFORE UPDATE ON outcome FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE TRIGGER outcome_DELETE BEFORE DELETE ON outcome FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE TRIGGER outcome_TRUNCATE BEFORE TRUNCATE ON outcome FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE INDEX outcome_of_key ON outcome (key_kind, key, name, event_time)
CREATE INDEX outcome_of_name ON outcome (name, event_time)
CREATE UNIQUE INDEX outcome_superseded ON outcome (supersedes)
CREATE TABLE release ( id TEXT NOT NULL, model TEXT NOT NULL, stable TEXT NOT NULL, canary TEXT NOT NULL, alias TEXT NOT NULL, salt TEXT NOT NULL, policy TEXT DEFAULT '{}' NOT NULL, state TEXT NOT NULL, stage INTEGER DEFAULT '0' NOT NULL, weight DOUBLE PRECISION DEFAULT '0' NOT NULL, evidence TEXT DEFAULT '{}' NOT NULL, progress TEXT DEFAULT '{}' NOT NULL, revision INTEGER DEFAULT '0' NOT NULL, reason TEXT DEFAULT '' NOT NULL, created DOUBLE PRECISION NOT NULL, by TEXT NOT NULL, why TEXT DEFAULT '' NOT NULL, changed DOUBLE PRECISION NOT NULL, ended DOUBLE PRECISION, PRIMARY KEY (id) )
CREATE INDEX release_of_model ON release (model, created)
CREATE TABLE bucket ( release TEXT NOT NULL, seq BIGINT NOT NULL, body TEXT DEFAULT '{}' NOT NULL, PRIMARY KEY (release, seq), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TRIGGER bucket_UPDATE BEFORE UPDATE ON bucket FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE TRIGGER bucket_DELETE BEFORE DELETE ON bucket FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE TRIGGER bucket_TRUNCATE BEFORE TRUNCATE ON bucket FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE TABLE decision ( release TEXT NOT NULL, seq BIGINT NOT NULL, inputs TEXT NOT NULL, body TEXT DEFAULT '{}' NOT NULL, actor TEXT NOT NULL, time DOUBLE PRECISION NOT NULL, PRIMARY KEY (release, seq), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TRIGGER decision_UPDATE BEFORE UPDATE ON decision FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE TRIGGER decision_DELETE BEFORE DELETE ON decision FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE TRIGGER decision_TRUNCATE BEFORE TRUNCATE ON decision FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE TABLE exposure ( release TEXT NOT NULL, unit BIGINT NOT NULL, arm TEXT NOT NULL, stage INTEGER NOT NULL, propensity DOUBLE PRECISION NOT NULL, time DOUBLE PRECISION NOT NULL, is_first INTEGER NOT NULL, segment TEXT DEFAULT '{}' NOT NULL, PRIMARY KEY (release, unit, arm), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TRIGGER exposure_UPDATE BEFORE UPDATE ON exposure FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE INDEX exposure_of_release ON exposure (release, time)
CREATE TABLE first_event ( release TEXT NOT NULL, metric TEXT NOT NULL, unit BIGINT NOT NULL, arm TEXT NOT NULL, time DOUBLE PRECISION NOT NULL, PRIMARY KEY (release, metric, unit), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TRIGGER first_event_UPDATE BEFORE UPDATE ON first_event FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE TABLE prediction ( request BIGINT NOT NULL, release TEXT NOT NULL, arm TEXT NOT NULL, unit BIGINT NOT NULL, stage INTEGER NOT NULL, propensity DOUBLE PRECISION NOT NULL, time DOUBLE PRECISION NOT NULL, PRIMARY KEY (request, release), FOREIGN KEY(release) REFERENCES release (id) )
CREATE TRIGGER prediction_UPDATE BEFORE UPDATE ON prediction FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()
CREATE INDEX prediction_of_release ON prediction (release, time)
CREATE INDEX prediction_of_unit ON prediction (release, unit)
CREATE TABLE wish ( id BIGINT GENERATED BY DEFAULT AS IDENTITY, release TEXT NOT NULL, what TEXT NOT NULL, by TEXT NOT NULL, why TEXT DEFAULT '' NOT NULL, time DOUBLE PRECISION NOT NULL, done DOUBLE PRECISION, answer TEXT DEFAULT '' NOT NULL, PRIMARY KEY (id), FOREIGN KEY(release) REFERENCES release (id) )
CREATE INDEX wish_open ON wish (done, id)
