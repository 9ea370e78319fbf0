-- sqlite
ALTER TABLE crowd ADD COLUMN stage INTEGER DEFAULT '-1' NOT NULL
CREATE TABLE failing_unit ( release TEXT NOT NULL, metric TEXT NOT NULL, stage INTEGER NOT NULL, unit BIGINT NOT NULL, arm TEXT NOT NULL, blocks INTEGER NOT NULL, last BIGINT NOT NULL, PRIMARY KEY (release, metric, stage, unit), FOREIGN KEY(release) REFERENCES release (id) )
ALTER TABLE witness ADD COLUMN ahead DOUBLE DEFAULT '0' NOT NULL
-- postgresql
CREATE OR REPLACE FUNCTION salver_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'rows of % are kept as they are', TG_TABLE_NAME; END $$
ALTER TABLE crowd ADD COLUMN stage INTEGER DEFAULT '-1' NOT NULL
CREATE TABLE failing_unit ( release TEXT NOT NULL, metric TEXT NOT NULL, stage INTEGER NOT NULL, unit BIGINT NOT NULL, arm TEXT NOT NULL, blocks INTEGER NOT NULL, last BIGINT NOT NULL, PRIMARY KEY (release, metric, stage, unit), FOREIGN KEY(release) REFERENCES release (id) )
ALTER TABLE witness ADD COLUMN ahead DOUBLE PRECISION DEFAULT '0' NOT NULL
